//! Tests of [`super`].

use super::*;

fn failure(shutdown: &Shutdown) -> (String, String) {
    let failure = shutdown.failure().unwrap();
    (failure.task, failure.message)
}

#[tokio::test]
async fn an_error_or_a_panic_stops_the_process() {
    let shutdown = Shutdown::new();
    spawn("fails", &shutdown, async { Err("no disk".into()) }).ended().await;
    assert_eq!(failure(&shutdown), ("fails".into(), "no disk".into()));

    let shutdown = Shutdown::new();
    spawn("panics", &shutdown, async { panic!("at {}", 7) }).ended().await;
    assert_eq!(failure(&shutdown), ("panics".into(), "panicked: at 7".into()));

    let shutdown = Shutdown::new();
    spawn_thread("thread", &shutdown, || panic!("oh")).unwrap().ended().await;
    assert_eq!(failure(&shutdown), ("thread".into(), "panicked: oh".into()));

    let shutdown = Shutdown::new();
    spawn("ends", &shutdown, async { Ok(()) }).ended().await;
    assert!(!shutdown.is_cancelled());
}

#[tokio::test]
async fn threads_bear_their_names() {
    let shutdown = Shutdown::new();
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let body =
        move || Ok(sender.blocking_send(std::fs::read_to_string("/proc/thread-self/comm")?)?);
    spawn_thread("fifteen-letters", &shutdown, body).unwrap().ended().await;
    assert_eq!(receiver.recv().await.unwrap().trim(), "fifteen-letters");
    assert!(spawn_thread("sixteen-letters-", &shutdown, || Ok(())).is_err());
}

#[tokio::test]
async fn tasks_drain_and_the_slow_one_is_a_failure() {
    let shutdown = Shutdown::new();
    let mut tasks = Tasks::new(&shutdown);
    let token = shutdown.clone();
    tasks.spawn("quick", async move {
        token.cancelled().await;
        Ok(())
    });
    shutdown.trigger();
    assert_eq!(tasks.wait(Duration::from_secs(5)).await, Ok(()));

    let shutdown = Shutdown::new();
    let mut tasks = Tasks::new(&shutdown);
    tasks.spawn("slow", std::future::pending());
    shutdown.trigger();
    let failure = tasks.wait(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(failure.task, "slow");
    assert_eq!(shutdown.exit_code(), 1);
}

#[tokio::test]
async fn work_outlives_the_one_who_asked() {
    let (sender, receiver) = oneshot::channel();
    let (begun_sender, begun) = oneshot::channel();
    let work = to_completion(async move {
        let _ = begun_sender.send(());
        tokio::time::sleep(Duration::from_millis(20)).await;
        let _ = sender.send(7);
    });
    tokio::select! {
        biased;
        _ = begun => {}
        _ = work => panic!("it was not cut short"),
    }
    assert_eq!(receiver.await.unwrap(), 7);
    let failure = to_completion(async { panic!("gone") }).await.map(|(): ()| ()).unwrap_err();
    assert_eq!(failure.message, "panicked: gone");
}

#[test]
fn the_clock_is_in_this_century() {
    assert!((1_700_000_000_000_000..4_000_000_000_000_000).contains(&now_us()));
}
