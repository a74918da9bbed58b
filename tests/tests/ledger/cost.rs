//! What a posting of many teams costs: printed, judged by nobody, because machines are busy.

use std::time::Instant;

use anyhow::Result;
use ledger::{account::Book, post};
use ledger_writer::window::Window;

use crate::world::{Line, Outcomes, Rater, World, after, audit_key};

const TEAMS: usize = 10_000;
const METERS: [&str; 2] = ["tokens", "calls"];
const WINDOWS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_teams_are_posted_together() -> Result<()> {
    let world = World::start().await?;
    let pool = world.pool("weir_writer").await?;
    let mut rater = Rater::new(0);
    let (key, mut book) = (audit_key(), Book::default());
    let lines: Vec<Line> = (0..TEAMS)
        .flat_map(|team| {
            METERS.map(|meter| Line::new(&format!("team-{team:05}"), meter, 1_234_567_891))
        })
        .collect();
    for number in 0..WINDOWS {
        let standing = post::standing(&mut *pool.acquire().await?, 0).await?;
        let position = i64::try_from(number)?;
        let (outer, message) = rater.batch(&lines, &Outcomes::default());
        rater.place = rater.place.after(&outer, position);
        let started = Instant::now();
        let mut window = Window::new(0, standing.place, 0);
        assert!(window.offer(position, &message)?);
        let added = started.elapsed();
        let posting = window.posting();
        let started = Instant::now();
        let posted = post::post(&pool, &key, &mut book, after(&standing), &posting).await?;
        let elapsed = started.elapsed();
        assert_eq!(posted.transfers, TEAMS * METERS.len() + METERS.len());
        let each = elapsed.as_micros() / (TEAMS * METERS.len()) as u128;
        println!(
            "window {number}: {each} us per (team, meter): {elapsed:?} to post, {added:?} to add up"
        );
    }
    assert_eq!(
        world.check_books().await?,
        ((TEAMS * METERS.len() + METERS.len()) * WINDOWS) as u64
    );
    Ok(())
}
