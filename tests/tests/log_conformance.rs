//! One suite for both logs: what `runtime::log` promises, on disk and on a real Kafka broker.
//!
//! The cases of [`suite`] run against both. [`local`] and [`kafka`] hold what only one of them can
//! be asked: system calls and damage on disk, a broker that is killed or frozen. Writers that are
//! killed are this binary itself, run again ([`child`]).

#[path = "log_conformance/child.rs"]
mod child;
#[path = "log_conformance/kafka.rs"]
mod kafka;
#[path = "log_conformance/local.rs"]
mod local;
#[path = "log_conformance/place.rs"]
mod place;
#[path = "log_conformance/suite.rs"]
mod suite;

macro_rules! both {
    ($($case:ident)*) => {
        mod on_disk {
            $(#[test] fn $case() { super::suite::$case(&super::place::Fixture::local()); })*
        }
        mod on_kafka {
            $(#[test] fn $case() {
                let broker = super::kafka::calm();
                super::suite::$case(&super::place::Fixture::kafka(&broker));
            })*
        }
    };
}

both! {
    positions_have_no_gap_and_the_report_says_what_is_read
    a_reader_begins_at_any_position
    a_reader_waits_for_new_messages
    several_readers_read_while_others_append
    readers_come_and_go_each_from_its_own_position
    threads_keep_their_order
    the_longest_message_passes_and_a_longer_one_is_refused
    topics_and_partitions_are_separate
    two_owners_append_in_one_order_that_every_reader_sees
    members_share_and_what_one_leaves_moves_to_the_other
    acknowledged_messages_survive_the_kill_of_their_writer
    a_trimmed_position_is_reported_with_the_first_one_left
    a_position_after_the_end_is_an_error
    an_unknown_place_is_refused
}
