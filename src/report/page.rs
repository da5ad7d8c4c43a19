//! A report as a page: one file, without scripts and without anything from elsewhere. Every chart has its figures in a table below.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use interdict_audit::{Elimination, Figures, Findings as Report, State};
use jiff::ToSpan as _;
use jiff::civil::Date;

use super::Beside;

const STYLE: &str = "
body{font:15px/1.5 system-ui,sans-serif;color:#1a1d21;background:#fff;max-width:60rem;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.6rem;margin:0 0 .2rem}h2{font-size:1.15rem;margin:2.4rem 0 .6rem;border-bottom:1px solid #d5d9de;padding-bottom:.2rem}
p.lead{color:#4a5058;margin:.2rem 0 1rem}table{border-collapse:collapse;width:100%;margin:.6rem 0 1rem;font-size:.9rem}
th,td{text-align:left;padding:.28rem .6rem .28rem 0;border-bottom:1px solid #e6e9ec;vertical-align:top}th{font-weight:600}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}code{font-size:.86em;overflow-wrap:anywhere}
svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif;fill:#4a5058}
.key span{display:inline-block;margin-right:1rem}.key i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:2px}
@media print{body{margin:0;max-width:none}h2{break-after:avoid}svg,table{break-inside:avoid}}";

/// A colour for each state, told apart in grey too.
const COLOURS: [(State, &str); 6] = [
    (State::Active, "#8c1d18"),
    (State::New, "#d9534f"),
    (State::Relapsed, "#e8a33d"),
    (State::Eliminated, "#2f7d4f"),
    (State::Silent, "#b8bec5"),
    (State::Exempt, "#5b7fb5"),
];

/// The page.
pub(super) fn page(report: &Report, beside: &Beside) -> String {
    let mut out = String::new();
    let question = &report.question;
    let last = question.to.yesterday().unwrap_or(question.to);
    let _ = writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>Contact observed, {from} to {last}</title><style>{STYLE}</style></head><body>\n\
         <h1>Contact observed with banned services</h1>\n<p class=\"lead\">{from} to {last} (UTC), {units}, by the record of {origin}</p>",
        from = question.from,
        units = question.unit.as_ref().map_or("all units".to_owned(), |unit| format!("unit {}", text(unit))),
        origin = text(&report.origin),
    );
    outcome(&mut out, report);
    let own = report.own_since.as_deref().and_then(|time| time.get(..10)?.parse().ok());
    let months = Bars { bars: &report.total.months, own, month: true };
    trend(&mut out, ["Clients in contact, by month", "Month", "%Y-%m"], &months, beside);
    let weeks = Bars { bars: &report.total.weeks, own, month: false };
    trend(&mut out, ["Clients in contact, by week", "Week from", "%Y-%m-%d"], &weeks, beside);
    elimination(&mut out, report.total.elimination.as_ref());
    units(&mut out, report, beside);
    roles(&mut out, &report.total);
    detections(&mut out, report, beside);
    relays(&mut out, report, beside);
    coverage(&mut out, report);
    imported(&mut out, report);
    policies(&mut out, report, beside);
    method(&mut out, report, beside);
    out.push_str("</body></html>\n");
    out
}

/// A text that is nothing but text.
fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    for letter in interdict_policy::printable(raw).chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            letter => safe.push(letter),
        }
    }
    safe
}

fn percent(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

/// A table: heads of columns, of which all behind the first so many are numbers.
fn table(out: &mut String, heads: &[&str], texts: usize, rows: impl IntoIterator<Item = Vec<String>>) {
    let class = |column: usize| if column < texts { "" } else { " class=\"n\"" };
    out.push_str("<table><thead><tr>");
    for (column, head) in heads.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(column), text(head));
    }
    out.push_str("</tr></thead><tbody>\n");
    for row in rows {
        out.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let _ = write!(out, "<td{}>{cell}</td>", class(column));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table>\n");
}

fn states_of(figures: &Figures) -> impl Iterator<Item = (State, &'static str, u64)> + '_ {
    COLOURS.iter().map(|(state, colour)| (*state, *colour, figures.states.get(state).copied().unwrap_or(0)))
}

fn outcome(out: &mut String, report: &Report) {
    let total = &report.total;
    let _ = writeln!(out, "<h2>What became of {} clients</h2>", total.clients);
    out.push_str("<svg viewBox=\"0 0 960 44\" role=\"img\" aria-label=\"Shares of clients by state\">");
    let mut x = 0.0;
    for (state, colour, count) in states_of(total).filter(|(_, _, count)| *count > 0) {
        let width = count as f64 * 960.0 / total.clients.max(1) as f64;
        let _ = write!(
            out,
            "<rect x=\"{x:.1}\" y=\"4\" width=\"{width:.1}\" height=\"36\" fill=\"{colour}\"><title>{} {count}</title></rect>",
            state.as_str()
        );
        x += width;
    }
    out.push_str("</svg>\n<p class=\"key\">");
    for (state, colour, _) in states_of(total) {
        let _ = write!(out, "<span><i style=\"background:{colour}\"></i>{}</span>", state.as_str());
    }
    out.push_str("</p>\n");
    let rows = states_of(total).map(|(state, _, count)| {
        vec![
            state.as_str().to_owned(),
            meaning(state, report.question.quiet_days),
            count.to_string(),
            percent(count, total.clients),
        ]
    });
    let all = vec![
        "all".to_owned(),
        String::new(),
        total.clients.to_string(),
        percent(total.clients, total.clients),
    ];
    table(out, &["State", "At the end of the period", "Clients", "Share"], 2, rows.chain([all]));
    let depths = ["asked for a name", "sent packets", "were connected", "received data"];
    let rows =
        depths.iter().zip(total.depths).map(|(depth, count)| vec![(*depth).to_owned(), count.to_string()]);
    table(out, &["Furthest in the period", "Clients"], 1, rows);
}

fn meaning(state: State, quiet: u16) -> String {
    match state {
        State::Active => format!("in contact in the last {quiet} days, and before"),
        State::New => format!("in contact in the last {quiet} days for the first time"),
        State::Relapsed => {
            format!("in contact in the last {quiet} days, after more than {quiet} days without")
        }
        State::Eliminated => format!("no contact in the last {quiet} days, and a sign of life in them"),
        State::Silent => format!("no contact in the last {quiet} days, and no sign of life: unknown"),
        State::Exempt => {
            format!("let through by the register in the last {quiet} days, and no other contact")
        }
    }
}

/// Clients by time, and from when on this record itself knows of them.
struct Bars<'b> {
    bars: &'b BTreeMap<Date, u64>,
    own: Option<Date>,
    /// Of months, not of weeks.
    month: bool,
}

impl Bars<'_> {
    /// Whether what is known of a bar was imported, all of it.
    fn is_imported(&self, day: Date) -> bool {
        let end = if self.month { day.last_of_month() } else { day.saturating_add(6.days()) };
        self.own.is_some_and(|own| end < own)
    }
}

/// Bars by time, with the dates of instruments between them.
fn trend(out: &mut String, [title, head, label]: [&str; 3], trend: &Bars<'_>, beside: &Beside) {
    let bars = trend.bars;
    let _ = writeln!(out, "<h2>{title}</h2>");
    if bars.is_empty() {
        out.push_str("<p>None in the period.</p>\n");
        return;
    }
    let most = bars.values().copied().max().unwrap_or(1).max(1);
    let width = 940.0 / bars.len() as f64;
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 960 200\" role=\"img\" aria-label=\"{title}\"><text x=\"0\" y=\"12\">{most}</text>"
    );
    out.push_str("<line x1=\"0\" y1=\"170\" x2=\"960\" y2=\"170\" stroke=\"#d5d9de\"/>");
    for (place, (day, count)) in bars.iter().enumerate() {
        let (x, height) = (10.0 + place as f64 * width, *count as f64 * 140.0 / most as f64);
        let _ = write!(
            out,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{height:.1}\" fill=\"{}\"><title>{}: {count}</title></rect>",
            170.0 - height,
            (width * 0.8).max(0.5),
            if trend.is_imported(*day) { "#d9a9a6" } else { "#8c1d18" },
            day.strftime(label)
        );
        // As many labels as have room.
        if place % bars.len().div_ceil(12) == 0 {
            let _ = write!(out, "<text x=\"{x:.1}\" y=\"186\">{}</text>", day.strftime(label));
        }
    }
    for (id, _, effective) in &beside.instruments {
        let Some(place) = bars
            .keys()
            .rposition(|day| day <= effective)
            .filter(|_| bars.keys().next_back() >= Some(effective))
        else {
            continue;
        };
        let x = 10.0 + place as f64 * width;
        let _ = write!(
            out,
            "<line x1=\"{x:.1}\" y1=\"16\" x2=\"{x:.1}\" y2=\"170\" stroke=\"#1a1d21\" stroke-dasharray=\"3 3\"/><text x=\"{:.1}\" y=\"25\">{}</text>",
            x + 4.0,
            text(id)
        );
    }
    out.push_str("</svg>\n");
    if bars.keys().any(|day| trend.is_imported(*day)) {
        out.push_str("<p>Light bars are of the time before this record: by imported notes alone.</p>\n");
    }
    let rows = bars.iter().map(|(day, count)| {
        let known = if trend.is_imported(*day) { "imported" } else { "" };
        vec![day.strftime(label).to_string(), known.to_owned(), count.to_string()]
    });
    table(out, &[head, "", "Clients"], 2, rows);
}

fn elimination(out: &mut String, elimination: Option<&Elimination>) {
    out.push_str("<h2>Time until clients stopped</h2>\n");
    let Some(Elimination { clients, stopped, median_days, interval, curve }) = elimination else {
        out.push_str("<p>No client was in contact in the period.</p>\n");
        return;
    };
    let days = |days: &Option<i64>| days.map_or("not reached".to_owned(), |days| format!("{days} days"));
    let _ = writeln!(
        out,
        "<p>Of {clients} clients in contact in the period {stopped} stopped. Half had stopped after: {} (95 %: {} to {}).</p>",
        days(median_days),
        days(&interval[0]),
        days(&interval[1])
    );
    let most = curve.last().map_or(1, |(days, _)| *days).max(1) as f64;
    let mut path = "M10 10".to_owned();
    for (days, share) in curve.iter().skip(1) {
        let _ = write!(path, " H{:.1} V{:.1}", 10.0 + *days as f64 * 930.0 / most, 160.0 - share * 150.0);
    }
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 960 190\" role=\"img\" aria-label=\"Share of clients still in contact, by days\">\
         <line x1=\"10\" y1=\"85\" x2=\"940\" y2=\"85\" stroke=\"#d5d9de\" stroke-dasharray=\"3 3\"/>\
         <line x1=\"10\" y1=\"160\" x2=\"940\" y2=\"160\" stroke=\"#d5d9de\"/>\
         <path d=\"{path}\" fill=\"none\" stroke=\"#8c1d18\" stroke-width=\"2\"/><text x=\"14\" y=\"82\">half</text>\
         <text x=\"880\" y=\"176\">{most} days</text></svg>"
    );
    // So many that the steps can be followed.
    let step = curve.len().div_ceil(24);
    let rows = curve
        .iter()
        .step_by(step)
        .map(|(days, share)| vec![days.to_string(), format!("{:.1} %", share * 100.0)]);
    table(out, &["After days", "Still in contact"], 0, rows);
}

fn units(out: &mut String, report: &Report, beside: &Beside) {
    out.push_str("<h2>By unit</h2>\n");
    let rows = report.units.iter().map(|figures| {
        let mut row = vec![
            text(beside.titles.get(&figures.unit).unwrap_or(&figures.unit)),
            figures.clients.to_string(),
        ];
        row.extend(states_of(figures).map(|(_, _, count)| count.to_string()));
        let median = figures.elimination.as_ref().and_then(|found| found.median_days);
        row.push(median.map_or("-".to_owned(), |days| days.to_string()));
        row
    });
    let mut heads = vec!["Unit", "Clients"];
    heads.extend(COLOURS.iter().map(|(state, _)| state.as_str()));
    heads.push("median days");
    table(out, &heads, 1, rows);
}

fn roles(out: &mut String, total: &Figures) {
    out.push_str("<h2>What was contacted</h2>\n<p>Roles outside the headline inform people, or are nobody's product at work; they count in no figure but these.</p>\n");
    let rows = total.roles.iter().map(|(role, figures)| {
        let part = if figures.headline { "headline" } else { "informational" };
        vec![
            text(role),
            part.to_owned(),
            figures.clients.to_string(),
            figures.contacts.to_string(),
            figures.blocked.to_string(),
        ]
    });
    table(out, &["Role", "", "Clients", "Contacts", "Blocked"], 2, rows);
}

fn detections(out: &mut String, report: &Report, beside: &Beside) {
    out.push_str("<h2>First detections</h2>\n<p>FAR 52.204-23(c) asks for a report within three business days, and for a second one within ten. Days from Monday to Friday; take holidays out.</p>\n");
    let rows = report.units.iter().filter_map(|figures| {
        let clocks = figures.first_detection.as_ref()?;
        let unit = text(beside.titles.get(&figures.unit).unwrap_or(&figures.unit));
        Some(vec![
            unit,
            clocks.day.to_string(),
            clocks.report_by.to_string(),
            clocks.follow_up_by.to_string(),
        ])
    });
    table(out, &["Unit", "First contact put on record", "Report by", "Follow-up by"], 4, rows);
}

fn relays(out: &mut String, report: &Report, beside: &Beside) {
    out.push_str("<h2>Clients that may be several</h2>\n");
    if report.relays.is_empty() {
        out.push_str("<p>None asks five times as much as the median client, or there are fewer than five to compare.</p>\n");
        return;
    }
    let _ = writeln!(
        out,
        "<p>These ask at least five times as much on a day as the median client does on one of its own: as resolvers, proxies or \
         translators they may stand for others. If they do, about {} clients are not counted.</p>",
        report.uncounted
    );
    let rows = report.relays.iter().map(|relay| {
        vec![
            text(&relay.client.to_string()),
            text(beside.titles.get(&relay.unit).unwrap_or(&relay.unit)),
            relay.questions.to_string(),
            relay.days.to_string(),
            format!("{:.1}", relay.times_the_median),
            relay.uncounted.to_string(),
        ]
    });
    table(out, &["Client", "Unit", "Questions", "Days", "Times the median", "Uncounted"], 2, rows);
}

fn imported(out: &mut String, report: &Report) {
    if report.imported.is_empty() {
        return;
    }
    out.push_str(
        "<h2>Imported history</h2>\n<p>Notes of other programs, put on record later: this record proves when they were put there and \
         from which file, not that they are true. Checkpoints do not cover the time of which they tell.</p>\n",
    );
    let rows = report.imported.iter().map(|imported| {
        vec![
            format!("{} ({})", text(&imported.source), text(&imported.format)),
            format!("{}<br><code>{}</code>", text(&imported.file), text(&imported.sha256)),
            text(&imported.period[0]),
            text(&imported.period[1]),
            imported.event.to_string(),
            imported.entries.to_string(),
            imported.strange.to_string(),
            imported.contacts.to_string(),
        ]
    });
    table(out, &["Source", "File", "From", "To", "Event", "Entries", "Not read", "Contacts"], 4, rows);
}

fn coverage(out: &mut String, report: &Report) {
    let coverage = &report.coverage;
    let _ = writeln!(
        out,
        "<h2>Coverage</h2>\n<p>{:.2} % of the period is covered by checkpoints. {} events were lost for want of room, and are counted \
         by the record itself. Of {} self-tests {} passed. {} contacts have no client, since the packets did not tell.</p>",
        coverage.share * 100.0,
        coverage.lost_events,
        coverage.selftests.iter().sum::<u64>(),
        coverage.selftests[0],
        report.unattributed
    );
    if !coverage.gaps.is_empty() {
        table(out, &["Nobody recorded from", "to"], 2, coverage.gaps.iter().map(|gap| gap.to_vec()));
    }
    if coverage.more_gaps > 0 {
        let _ = writeln!(out, "<p>And {} more.</p>", coverage.more_gaps);
    }
}

fn policies(out: &mut String, report: &Report, beside: &Beside) {
    out.push_str("<h2>Policy in force</h2>\n");
    let nothing = Vec::new();
    let rows = report.policies.iter().enumerate().map(|(place, (time, digest))| {
        let changes = beside.changes.get(place).unwrap_or(&nothing);
        let changes: Vec<String> = changes.iter().map(|line| text(line)).collect();
        vec![text(time), format!("<code>{}</code>", text(digest)), changes.join("<br>")]
    });
    table(out, &["From", "Digest", "What it changed"], 3, rows);
    out.push_str("<h2>Register of exemptions</h2>\n");
    match beside.exemptions.is_empty() {
        true => out.push_str("<p>Empty.</p>\n"),
        false => {
            let rows = beside.exemptions.iter().map(|line| line.iter().map(|cell| text(cell)).collect());
            table(out, &["Line", "Clients", "Rules", "Reason", "Approved by", "Expires"], 6, rows);
        }
    }
    if !beside.instruments.is_empty() {
        out.push_str("<h2>Legal basis</h2>\n");
        let rows = beside
            .instruments
            .iter()
            .map(|(id, title, effective)| vec![text(id), text(title), effective.to_string()]);
        table(out, &["Instrument", "", "Effective"], 3, rows);
    }
}

fn method(out: &mut String, report: &Report, beside: &Beside) {
    let question = &report.question;
    let _ = writeln!(
        out,
        "<h2>Method</h2>\n<p>A client is an address, or its pseudonym; all behind one translator or relay are one, so numbers of clients \
         are a lower bound. Clients in contact are those with a question or a packet that a rule of a headline role ({}) blocked or logged. \
         States are those at the end of the last day, and sum to all clients ever in contact before. A sign of life is any event of \
         the client, or its DNS questions to this resolver, which are noted once a day for clients that were in contact before. Time until \
         clients stopped: Kaplan and Meier's estimate from the first day of the period, or a client's first contact in it; those still in \
         contact, exempt or silent are censored; the interval is log-log, by Greenwood's formula. Contact is not use, and \
         a report cannot tell research from neglect.</p>\n<p>Made by <code>{}</code></p>",
        text(&question.headline.join(", ")),
        text(&beside.command)
    );
    if let Some((size, root, time)) = &report.checkpoint {
        let _ = writeln!(
            out,
            "<p>The record is sealed by the checkpoint of {} over {size} events, with the root <code>{}</code>; \
             <code>interdict audit verify</code> says whether it is whole.</p>",
            text(time),
            text(root)
        );
    }
}
