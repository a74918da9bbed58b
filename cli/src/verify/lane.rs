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
