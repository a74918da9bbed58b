//! Where the slow lane of a partition stands, by the log.

use anyhow::{Context as _, Result};
use domain::chain::{Offer, Place};
use ledger::verify::{Check, late::Lane};
use runtime::{
    log::{SharedLog, Topic},
    task,
};

use super::log::{ANSWER_TIME_MAX, bounds};

const RATED: Topic = Topic("rated");

/// Follows the accepted batches from the last window's end before the lane up to the lane.
pub async fn check_place(check: &mut Check, log: &SharedLog, lane: Lane) -> Result<()> {
    check.rows += 1;
    let Lane { partition, place, before } = lane;
    let (first, next) = bounds(log, RATED, partition).await?;
    let mut follows = place.r < next;
    // A log that was trimmed behind all its readers has not got what leads there any more.
    if follows && before.r + 1 >= first {
        let log = log.clone();
        let followed = task::blocking(move || follow(&log, partition, before, place.r)).await?;
        follows = followed? == place;
    }
    if !follows {
        check.blame(|| {
            format!(
                "partition {partition}: the place of the slow lane, position {}, is not on the accepted chain",
                place.x
            )
        });
    }
    Ok(())
}

/// The place that accepted batches lead to from `place`, up to position `to` of `[rated]`.
fn follow(log: &SharedLog, partition: u32, mut place: Place, to: i64) -> Result<Place> {
    let mut reader = log.reader(RATED, partition, place.r + 1)?;
    while place.r < to {
        let message = reader.next(ANSWER_TIME_MAX)?.context("the log does not answer in time")?;
        if message.position > to {
            break;
        }
        if let Offer::Accepted(_, after) =
            place.offer(partition, message.position, &message.payload)?
        {
            place = after;
        } else if message.position == to {
            break;
        }
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use domain::wire::{
        rated::{BehindSums, Header, Parts, encode},
        rows::ColumnsWriter,
    };
    use runtime::log::local::{LocalLog, LocalOptions};

    use super::*;

    fn batch(place: Place, to: i64) -> Vec<u8> {
        let header = Header {
            catalog_version: 1,
            rules_version: 1,
            table_from: 0,
            horizon_us: i64::MIN,
            append_time_us: (0, 0),
            counts: Vec::new(),
            traces: Vec::new(),
        };
        let (rows, others) = (ColumnsWriter::usage_events(), ColumnsWriter::rejected_events());
        let parts = Parts {
            header,
            sums: Vec::new(),
            behind: BehindSums::Nothing,
            rows,
            others,
            forwards: Vec::new(),
        };
        encode(0, place.x + 1, to, place.c, &parts).1
    }

    #[tokio::test]
    async fn a_lane_stands_where_an_accepted_batch_ends() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("weir-lane-{}", uuid::Uuid::now_v7()));
        let log: SharedLog = LocalLog::open(&folder, LocalOptions::new(1, &[RATED]))?;
        let mut places = vec![Place::EMPTY];
        // The second one comes again: it is ignored.
        for (before, to) in [(0, 2), (1, 5), (1, 7), (2, 9)] {
            let message = batch(places[before], to);
            let appended = log.append(RATED, 0, message.clone().into()).outcome().await?;
            match places[places.len() - 1].offer(0, appended.position, &message)? {
                Offer::Accepted(_, place) => places.push(place),
                Offer::Ignored(outer) => assert_eq!(outer.to, 7),
            }
        }
        let bad = async |place: Place, before: Place| {
            let mut check = Check::new("lanes");
            check_place(&mut check, &log, Lane { partition: 0, place, before }).await?;
            Ok::<_, anyhow::Error>(check.bad)
        };
        for (number, place) in places.iter().enumerate().skip(1) {
            assert_eq!(bad(*place, places[number - 1]).await?, 0);
            assert_eq!(bad(*place, Place::EMPTY).await?, 0);
            let elsewhere = [
                Place { c: [7; 32], ..*place },
                Place { x: place.x + 1, ..*place },
                Place { r: place.r + 1, ..*place },
                Place { r: place.r + 1000, ..*place },
            ];
            for elsewhere in elsewhere {
                assert_eq!(bad(elsewhere, Place::EMPTY).await?, 1, "{elsewhere:?}");
            }
        }
        drop(log);
        std::fs::remove_dir_all(&folder)?;
        Ok(())
    }
}
