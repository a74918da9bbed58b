use std::collections::HashSet;

use super::*;
use crate::account::{Account, MODELS};

const LOAD: Load = Load {
    seed: 1,
    teams: 100,
    tenants: 1,
    batch: 10,
    skew: 1.0,
    duplicates: 0.02,
    rejected: 0.001,
    late: 0.01,
    start_us: 1_777_863_721_500_000,
};

fn array(generator: &Generator, numbers: Range<u64>) -> String {
    let mut body = Vec::new();
    generator.write_array(numbers, &mut TimeText::default(), &mut body);
    String::from_utf8(body).unwrap()
}

/// The text of a member of the event, up to the next quote, comma or bracket.
fn member<'a>(event: &'a str, name: &str) -> &'a str {
    let (_, rest) = event.split_once(&format!("\"{name}\":")).unwrap();
    let rest = rest.strip_prefix('"').unwrap_or(rest);
    &rest[..rest.find(['"', ',', '}']).unwrap()]
}

#[test]
fn a_load_is_a_function_of_its_seed() {
    let generator = Generator::new(&LOAD);
    let whole = array(&generator, 0..300);
    assert_eq!(whole, array(&Generator::new(&LOAD), 0..300));
    // Built in other pieces and in another order, it is the same.
    let second = array(&generator, 100..300);
    let first = array(&generator, 0..100);
    assert_eq!(whole, format!("{},{}", &first[..first.len() - 1], &second[1..]));
    assert_ne!(whole, array(&Generator::new(&Load { seed: 2, ..LOAD }), 0..300));
}

#[test]
fn fates_have_the_shares_asked_for_and_ids_are_unique_but_for_duplicates() {
    let generator = Generator::new(&LOAD);
    let (count, mut ids, mut duplicates, mut rejected) = (200_000, HashSet::new(), 0, 0);
    let mut late = 0;
    for number in 0..count {
        let event = array(&generator, number..number + 1);
        let new = ids.insert(member(&event, "id").to_owned());
        // The first event is of 03:02, and all of them of one minute.
        late += i32::from(member(&event, "time").contains("T01:0"));
        match generator.fate(number) {
            Fate::Rated => assert!(new, "{event}"),
            Fate::Rejected => {
                assert!(new && member(&event, "outputTokens").starts_with('-'), "{event}");
                rejected += 1;
            }
            Fate::Duplicate(original) => {
                assert!(!new && original < number, "{event}");
                assert_eq!(generator.fate(original), Fate::Rated);
                assert_eq!(event, array(&generator, original..original + 1));
                duplicates += 1;
            }
        }
    }
    assert!((3_800..4_200).contains(&duplicates), "{duplicates}");
    assert!((150..250).contains(&rejected), "{rejected}");
    assert!((1_850..2_150).contains(&late), "{late}");
}

#[test]
fn no_duplicates_and_no_rejects_on_request() {
    let load = Load { duplicates: 0.0, rejected: 0.0, late: 0.0, ..LOAD };
    let generator = Generator::new(&load);
    assert!((0..10_000).all(|number| generator.fate(number) == Fate::Rated));
}

#[test]
fn the_account_is_the_sum_of_what_the_bodies_say() {
    let generator = Generator::new(&LOAD);
    let count = 5_000;
    let account = Account::of(&generator, count);
    let (mut rated, mut input, mut output) = (0, 0, 0);
    for number in 0..count {
        if generator.fate(number) == Fate::Rated {
            let event = array(&generator, number..number + 1);
            rated += 1;
            input += member(&event, "inputTokens").parse::<i128>().unwrap();
            output += member(&event, "outputTokens").parse::<i128>().unwrap();
            let model = &MODELS[generator.call(number).model];
            assert_eq!(member(&event, "model"), model.name);
            assert_eq!(member(&event, "subject"), team_name(generator.call(number).team));
        }
    }
    let total = account.total();
    assert_eq!(account.fates.rated, rated);
    assert_eq!(i128::from(total.events), i128::from(2 * rated));
    assert_eq!(total.quantity, (input + output) * crate::account::ONE);
    assert_eq!(account.fates.accepted(), count);
}

#[test]
fn times_are_rfc_3339() {
    let check = |time_us, want: &str| {
        let mut text = Vec::new();
        TimeText::default().write(time_us, &mut text);
        assert_eq!(String::from_utf8(text).unwrap(), want);
    };
    check(0, "1970-01-01T00:00:00.000000Z");
    check(951_782_400_000_001, "2000-02-29T00:00:00.000001Z");
    check(1_777_863_721_500_000, "2026-05-04T03:02:01.500000Z");
    check(4_107_542_399_999_999, "2100-02-28T23:59:59.999999Z");
}

#[test]
fn a_pace_is_exact() {
    assert_eq!(due_after(30_000, 20_000), Duration::from_millis(1_500));
    assert_eq!(due_after(0, 0), Duration::ZERO);
}

#[test]
fn tenants_share_the_teams_and_repeat_only_their_own_events() {
    let load = Load { tenants: 7, duplicates: 0.2, ..LOAD };
    let generator = Generator::new(&load);
    let (mut tenants, mut teams, mut duplicates) = (HashSet::new(), HashSet::new(), 0);
    for number in 0..20_000 {
        let (tenant, team) = (generator.tenant(number), generator.call(number).team);
        assert_eq!(u64::from(tenant), number / load.batch % 7);
        assert!(team < load.teams && team % 7 == tenant, "{team} of {tenant}");
        tenants.insert(tenant);
        teams.insert(team);
        if let Fate::Duplicate(original) = generator.fate(number) {
            assert_eq!(
                (generator.tenant(original), generator.fate(original)),
                (tenant, Fate::Rated)
            );
            duplicates += 1;
        }
    }
    assert_eq!((tenants.len(), teams.len()), (7, 100));
    assert!((3_700..4_300).contains(&duplicates), "{duplicates}");
}
