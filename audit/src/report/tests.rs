use super::*;

fn history(contacts: &[i64], exempt: &[i64], alive: Option<i64>) -> History {
    History {
        contacts: contacts.iter().copied().collect(),
        exempt: exempt.iter().copied().collect(),
        alive,
        ..History::default()
    }
}

/// A period of days 100 to 199, and 30 quiet days: the last ones are 170 to 199.
#[test]
fn a_client_is_in_the_state_that_its_days_say() {
    for (contacts, exempt, alive, expect) in [
        (&[][..], &[][..], Some(199), None),
        (&[200], &[], Some(200), None),
        (&[150, 199], &[], Some(199), Some(State::Relapsed)),
        (&[169, 199], &[], Some(199), Some(State::Active)),
        (&[168, 199], &[], Some(199), Some(State::Relapsed)),
        (&[150, 180], &[], Some(180), Some(State::Active)),
        (&[170], &[], Some(170), Some(State::New)),
        (&[199], &[], Some(199), Some(State::New)),
        (&[10, 50, 80, 110, 140, 169, 170], &[], None, Some(State::Active)),
        // A pause that was over before the period.
        (&[10, 99, 120, 150, 175], &[], None, Some(State::Active)),
        (&[10, 100, 120, 150, 175], &[], None, Some(State::Relapsed)),
        (&[169], &[], Some(170), Some(State::Eliminated)),
        (&[169], &[], Some(169), Some(State::Silent)),
        (&[10], &[], Some(199), Some(State::Eliminated)),
        (&[10], &[], None, Some(State::Silent)),
        (&[], &[180], Some(180), Some(State::Exempt)),
        (&[], &[120], Some(180), Some(State::Eliminated)),
        (&[], &[120], Some(120), Some(State::Silent)),
        (&[120], &[180], Some(180), Some(State::Exempt)),
        (&[180], &[180], Some(180), Some(State::New)),
    ] {
        let history = history(contacts, exempt, alive);
        assert_eq!(state(&history, [100, 200], 30), expect, "{history:?}");
    }
}

/// The state of a client day by day, by a machine that sees one day after the other: what a report of each day says.
#[test]
fn states_follow_from_the_days_one_after_the_other() {
    const QUIET: i64 = 5;
    let mut seed = 7_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..2000 {
        let (mut all, mut machine) = (history(&[], &[], None), None::<(i64, i64, bool)>);
        let (mut alive, mut exempt) = (None, None);
        let density = 1 + random(12);
        for day in 0..60 {
            if random(density + 1) == 0 {
                all.contacts.insert(day);
                machine = Some(match machine {
                    None => (day, day, false),
                    // It comes back.
                    Some((first, last, _)) if day - last > QUIET => (first, day, true),
                    Some((first, _, relapsed)) => (first, day, relapsed),
                });
                alive = Some(day);
            }
            if random(9) == 0 {
                all.exempt.insert(day);
                (exempt, alive) = (Some(day), Some(day));
            }
            if random(4) == 0 {
                alive = Some(day);
            }
            all.alive = alive;
            let to = day + 1;
            let is_recent = |day: Option<i64>| day.is_some_and(|day| day >= to - QUIET);
            let expect = match machine {
                Some((first, _, _)) if is_recent(Some(first)) => Some(State::New),
                Some((_, last, true)) if is_recent(Some(last)) => Some(State::Relapsed),
                Some((_, last, false)) if is_recent(Some(last)) => Some(State::Active),
                None if exempt.is_none() => None,
                _ if is_recent(exempt) => Some(State::Exempt),
                _ if is_recent(alive) => Some(State::Eliminated),
                _ => Some(State::Silent),
            };
            assert_eq!(state(&all, [0, to], QUIET), expect, "{all:?} before {to}");
        }
    }
}

#[test]
fn half_the_clients_have_stopped_when_the_estimate_says() {
    // Nobody is censored: the plain median.
    let all = elimination((1..=9).map(|days| (days, true)).collect()).unwrap();
    assert_eq!((all.clients, all.stopped, all.median_days), (9, 9, Some(5)));
    // From Kaplan and Meier's method by hand: 6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+
    // (Freireich's patients, as in any textbook): median 23, and its interval from 13 on without an end.
    let spans = [
        (6, true),
        (6, true),
        (6, true),
        (6, false),
        (7, true),
        (9, false),
        (10, true),
        (10, false),
        (11, false),
        (13, true),
        (16, true),
        (17, false),
        (19, false),
        (20, false),
        (22, true),
        (23, true),
        (25, false),
        (32, false),
        (32, false),
        (34, false),
        (35, false),
    ];
    let found = elimination(spans.to_vec()).unwrap();
    assert_eq!((found.median_days, found.interval), (Some(23), [Some(13), None]));
    let shares = [(6, 0.857), (7, 0.807), (10, 0.753), (13, 0.690), (16, 0.627), (22, 0.538), (23, 0.448)];
    for ((days, share), (expect_days, expect)) in found.curve[1..].iter().zip(shares) {
        assert!(*days == expect_days && (share - expect).abs() < 0.001, "{days} {share}");
    }
    // None stopped, and nobody at all.
    let none = elimination(vec![(9, false); 4]).unwrap();
    assert_eq!((none.stopped, none.median_days, none.curve.len()), (0, None, 1));
    assert_eq!(elimination(Vec::new()), None);
}

#[test]
fn business_days_leave_out_weekends() {
    let after =
        |day: &str, count| self::day(business_days_after(number(day.parse().unwrap()), count)).to_string();
    // 2026-11-26 is a Thursday.
    for (day, count, expect) in [
        ("2026-11-26", 3, "2026-12-01"),
        ("2026-11-26", 10, "2026-12-10"),
        ("2026-11-28", 3, "2026-12-02"),
        ("2026-11-23", 3, "2026-11-26"),
    ] {
        assert_eq!(after(day, count), expect, "{day} {count}");
    }
    assert_eq!(number("1970-01-01".parse().unwrap()), 0);
    assert_eq!(day(number("2026-11-26".parse().unwrap())).to_string(), "2026-11-26");
}
