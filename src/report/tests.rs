//! What people see of a report, as a whole: the text, the table and the page of one whose every part says something.

use interdict_audit::{Clocks, Coverage, Elimination, Relay, Role};
use jiff::civil::date;

use super::*;

fn figures(unit: &str, counts: [u64; 6]) -> Figures {
    let role = |clients, contacts, blocked, headline| Role { clients, contacts, blocked, headline };
    Figures {
        unit: unit.to_owned(),
        clients: counts.iter().sum(),
        states: State::ALL.into_iter().zip(counts).collect(),
        depths: [3, 2, 1, 0],
        roles: BTreeMap::from([
            ("update".to_owned(), role(5, 120, 100, true)),
            ("=website".to_owned(), role(2, 3, 0, false)),
        ]),
        weeks: BTreeMap::from([(date(2026, 9, 28), 4), (date(2026, 10, 5), 2)]),
        months: BTreeMap::from([(date(2026, 9, 1), 4), (date(2026, 10, 1), 6)]),
        elimination: Some(Elimination {
            clients: 6,
            stopped: 3,
            median_days: Some(9),
            interval: [Some(2), None],
            curve: vec![(0, 1.0), (2, 0.75), (9, 0.5)],
        }),
        first_detection: Some(Clocks {
            day: date(2026, 10, 2),
            report_by: date(2026, 10, 7),
            follow_up_by: date(2026, 10, 16),
        }),
    }
}

fn all() -> (Report, Beside) {
    let report = Report {
        question: Question {
            from: date(2026, 9, 1),
            to: date(2026, 11, 1),
            quiet_days: 30,
            unit: None,
            headline: vec!["update".to_owned()],
        },
        origin: "interdict/<gw>".to_owned(),
        checkpoint: Some((900, "cm9vdA==".to_owned(), "2026-11-01T00:00:30.000000Z".to_owned())),
        total: figures("", [3, 1, 1, 2, 1, 1]),
        units: vec![figures("hq", [2, 1, 1, 2, 1, 1]), figures("-", [1, 0, 0, 0, 0, 0])],
        coverage: Coverage {
            share: 0.985,
            gaps: vec![["2026-10-03T00:00:00Z".to_owned(), "2026-10-03T02:00:00Z".to_owned()]],
            more_gaps: 1,
            lost_events: 7,
            selftests: [200, 1],
        },
        policies: vec![
            ("2026-09-01T00:00:00Z".to_owned(), "aa".repeat(32)),
            ("2026-10-01T00:00:00Z".to_owned(), "bb".repeat(32)),
        ],
        unattributed: 4,
        own_since: Some("2026-10-01T08:00:00.000000Z".to_owned()),
        imported: vec![Imported {
            event: 12,
            source: "ns1".to_owned(),
            format: "unbound".to_owned(),
            file: "<unbound>.log".to_owned(),
            sha256: "cc".repeat(32),
            period: ["2026-09-01T00:00:01Z".to_owned(), "2026-09-30T23:00:00Z".to_owned()],
            entries: 90_000,
            strange: 2,
            contacts: 40,
        }],
        relays: vec![Relay {
            client: [10, 0, 0, 53].into(),
            unit: "hq".to_owned(),
            questions: 90,
            days: 2,
            times_the_median: 9.0,
            uncounted: 8,
        }],
        uncounted: 8,
    };
    let beside = Beside {
        titles: BTreeMap::from([("hq".to_owned(), "HQ <b>&".to_owned())]),
        instruments: vec![(
            "us-fd".to_owned(),
            "Final Determination (89 FR 52434)".to_owned(),
            date(2026, 9, 29),
        )],
        exemptions: vec![
            ["lab", "10.0.9.0/24", "v", "research", "CISO", "2027-01-01T00:00:00Z"].map(str::to_owned),
        ],
        changes: vec![vec![], vec!["rule v: domains".to_owned(), "exempt lab is new".to_owned()]],
        command: "interdict report --from 2026-09-01 --to 2026-11-01 --quiet 30 --headline update".to_owned(),
    };
    (report, beside)
}

fn check(name: &str, shown: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, shown));
}

#[test]
fn the_text_is_as_it_was_reviewed() {
    let (report, beside) = all();
    check("text", &for_people(&report, &beside));
}

#[test]
fn the_table_is_as_it_was_reviewed() {
    check("csv", &csv(&all().0));
}

#[test]
fn the_page_is_as_it_was_reviewed() {
    let (report, beside) = all();
    let page = page::page(&report, &beside);
    assert!(
        !page.contains("<unbound>") && !page.contains("<gw>") && !page.contains("<b>"),
        "no markup of others"
    );
    check("page", &page);
}
