//! Events in the words of other programs.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

/// What an event is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As it is on record.
    Json,
    /// Open Cybersecurity Schema Framework 1.6: DNS Activity (4003), Network Activity (4001), Base Event (0) for all else.
    Ocsf,
    /// Elastic Common Schema 8.17.
    Ecs,
    /// ArcSight Common Event Format, version 0.
    Cef,
    /// A line of a table (RFC 4180), under [`Format::header`].
    Csv,
}

/// The columns of a table.
const COLUMNS: [&str; 24] = [
    "id",
    "time",
    "clock",
    "plane",
    "channel",
    "client",
    "unit",
    "name",
    "type",
    "resolver",
    "address",
    "port",
    "protocol",
    "verdict",
    "rule",
    "role",
    "exemption",
    "count",
    "first",
    "last",
    "depth",
    "act",
    "detail",
    "digest",
];

impl Format {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Json, Self::Ocsf, Self::Ecs, Self::Cef, Self::Csv];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Ocsf => "ocsf",
            Self::Ecs => "ecs",
            Self::Cef => "cef",
            Self::Csv => "csv",
        }
    }

    /// What stands above all events, without the end of line.
    pub fn header(self) -> Option<String> {
        (self == Self::Csv).then(|| COLUMNS.join(","))
    }

    /// The event of a line in the record, in one line without its end. What is no event stays as it is.
    pub fn write(self, line: &str) -> String {
        let Ok(event) = serde_json::from_str::<Value>(line) else { return line.to_owned() };
        match self {
            Self::Json => line.to_owned(),
            Self::Ocsf => ocsf(&event).to_string(),
            Self::Ecs => ecs(&event).to_string(),
            Self::Cef => cef(&event),
            Self::Csv => csv(&event),
        }
    }
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| format!("{text} is no format"))
    }
}

fn text<'e>(value: &'e Value, key: &str) -> Option<&'e str> {
    value[key].as_str()
}

/// Microseconds since 1970 of a time on record.
fn micros(event: &Value, key: &str) -> i64 {
    let time = text(event, key).and_then(|time| time.parse::<jiff::Timestamp>().ok());
    time.map_or(0, jiff::Timestamp::as_microsecond)
}

/// An object of what there is.
fn some<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Object(
        pairs
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.to_owned(), value))
            .collect(),
    )
}

/// What an event is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum About {
    Name,
    Address,
    Act,
}

fn about(event: &Value) -> About {
    match &event["asked"] {
        asked if asked["name"].is_string() => About::Name,
        asked if asked["address"].is_string() => About::Address,
        _ => About::Act,
    }
}

fn ocsf(event: &Value) -> Value {
    let (asked, verdict, about) = (&event["asked"], text(event, "verdict"), about(event));
    let blocks = verdict == Some("block");
    // DNS Activity: Query. Network Activity: Refuse, or Traffic. Base Event: Other.
    let (class, category, activity) = match about {
        About::Name => (4003, 4, 1),
        About::Address if blocks => (4001, 4, 5),
        About::Address => (4001, 4, 6),
        About::Act => (0, 0, 99),
    };
    // Denied and Blocked, or Allowed, and Logged where a rule only watches.
    let (action, disposition) = match verdict {
        Some("block") => (json!(2), json!(2)),
        Some("log") => (json!(1), json!(17)),
        Some(_) => (json!(1), json!(1)),
        None => (Value::Null, Value::Null),
    };
    // Medium where the ban is concerned, else Informational.
    let severity = if matches!(verdict, Some("block" | "log")) { 3 } else { 1 };
    let detail = &event["detail"];
    some([
        ("class_uid", class.into()),
        ("category_uid", category.into()),
        ("activity_id", activity.into()),
        ("activity_name", if activity == 99 { event["act"].clone() } else { Value::Null }),
        ("type_uid", (class * 100 + activity).into()),
        ("severity_id", severity.into()),
        ("time", (micros(event, "time") / 1000).into()),
        ("start_time", (micros(event, "first") / 1000).into()),
        ("end_time", (micros(event, "last") / 1000).into()),
        ("count", event["count"].clone()),
        ("action_id", action),
        ("disposition_id", disposition),
        (
            "metadata",
            some([
                ("version", "1.6.0".into()),
                ("uid", event["id"].clone()),
                ("sequence", event["seq"].clone()),
                ("profiles", json!(["security_control"])),
                (
                    "product",
                    json!({ "name": "interdict", "vendor_name": "interdict", "version": env!("CARGO_PKG_VERSION") }),
                ),
            ]),
        ),
        ("device", json!({ "hostname": event["node"], "type_id": 0 })),
        (
            "query",
            match about {
                About::Name => json!({ "hostname": asked["name"], "type": asked["type"], "class": "IN" }),
                _ => Value::Null,
            },
        ),
        (
            "src_endpoint",
            if event["client"].is_null() { Value::Null } else { json!({ "ip": event["client"] }) },
        ),
        (
            "dst_endpoint",
            match about {
                About::Name if asked["resolver"].is_null() => Value::Null,
                About::Name => json!({ "ip": asked["resolver"], "port": 53 }),
                About::Address => some([("ip", asked["address"].clone()), ("port", asked["port"].clone())]),
                About::Act => Value::Null,
            },
        ),
        (
            "connection_info",
            match about {
                About::Address => json!({ "protocol_name": asked["protocol"], "direction_id": 2 }),
                _ => Value::Null,
            },
        ),
        (
            "traffic",
            match detail["bytes_out"].is_null() {
                true => Value::Null,
                false => some([
                    ("bytes_out", detail["bytes_out"].clone()),
                    ("bytes_in", detail["bytes_in"].clone()),
                    ("packets_out", detail["packets_out"].clone()),
                    ("packets_in", detail["packets_in"].clone()),
                ]),
            },
        ),
        (
            "firewall_rule",
            if event["rule"].is_null() {
                Value::Null
            } else {
                json!({ "uid": event["rule"], "category": event["role"] })
            },
        ),
        ("policy", if event["digest"].is_null() { Value::Null } else { json!({ "uid": event["digest"] }) }),
        (
            "actor",
            if event["process"].is_null() { Value::Null } else { json!({ "process": event["process"] }) },
        ),
        (
            "unmapped",
            some([
                ("plane", event["plane"].clone()),
                ("channel", event["channel"].clone()),
                ("clock", event["clock"].clone()),
                ("unit", event["unit"].clone()),
                ("exemption", event["exemption"].clone()),
                ("depth", event["depth"].clone()),
                ("act", event["act"].clone()),
                ("detail", detail.clone()),
            ]),
        ),
    ])
}

fn ecs(event: &Value) -> Value {
    let (asked, verdict, about) = (&event["asked"], text(event, "verdict"), about(event));
    let kind = match verdict {
        Some("block") => json!(["connection", "denied"]),
        Some(_) => json!(["connection", "allowed"]),
        None => json!(["info"]),
    };
    let category = if about == About::Act { "configuration" } else { "network" };
    let transport = match about {
        About::Name => event["channel"].clone(),
        _ => asked["protocol"].clone(),
    };
    let destination = match about {
        About::Name => some([("ip", asked["resolver"].clone())]),
        _ => some([("ip", asked["address"].clone()), ("port", asked["port"].clone())]),
    };
    let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty);
    let or_none = |value: Value| if is_empty(&value) { Value::Null } else { value };
    some([
        ("@timestamp", event["time"].clone()),
        ("ecs", json!({ "version": "8.17.0" })),
        (
            "event",
            some([
                ("id", event["id"].clone()),
                ("sequence", event["seq"].clone()),
                ("kind", "event".into()),
                ("category", json!([category])),
                ("type", kind),
                ("action", if verdict.is_some() { event["verdict"].clone() } else { event["act"].clone() }),
                ("start", event["first"].clone()),
                ("end", event["last"].clone()),
                ("provider", "interdict".into()),
                (
                    "dataset",
                    text(event, "plane").map_or(Value::Null, |plane| format!("interdict.{plane}").into()),
                ),
            ]),
        ),
        ("source", or_none(some([("ip", event["client"].clone())]))),
        ("destination", or_none(destination)),
        (
            "dns",
            match about {
                About::Name => {
                    json!({ "type": "query", "question": { "name": asked["name"], "type": asked["type"], "class": "IN" } })
                }
                _ => Value::Null,
            },
        ),
        (
            "network",
            match about {
                About::Name => some([("protocol", "dns".into()), ("transport", transport)]),
                About::Address => some([("transport", transport)]),
                About::Act => Value::Null,
            },
        ),
        (
            "rule",
            or_none(some([
                ("id", event["rule"].clone()),
                ("category", event["role"].clone()),
                ("ruleset", if event["rule"].is_null() { Value::Null } else { event["digest"].clone() }),
            ])),
        ),
        (
            "process",
            or_none(some([
                ("pid", event["process"]["pid"].clone()),
                ("name", event["process"]["name"].clone()),
            ])),
        ),
        ("observer", json!({ "hostname": event["node"], "product": "interdict", "type": "firewall" })),
        (
            "interdict",
            some([
                ("count", event["count"].clone()),
                ("channel", event["channel"].clone()),
                ("unit", event["unit"].clone()),
                ("exemption", event["exemption"].clone()),
                ("depth", event["depth"].clone()),
                ("clock", event["clock"].clone()),
                // Its keys are those of many kinds of acts, which an index would take for one another's.
                (
                    "detail",
                    if event["detail"].is_null() { Value::Null } else { event["detail"].to_string().into() },
                ),
            ]),
        ),
    ])
}

fn cef(event: &Value) -> String {
    let (asked, about) = (&event["asked"], about(event));
    let verdict = text(event, "verdict");
    let (signature, name) = match (text(event, "rule"), text(event, "act")) {
        (Some(rule), _) => (rule, "contact observed"),
        (None, act) => (act.unwrap_or("event"), act.unwrap_or("event")),
    };
    let severity = match verdict {
        Some("block" | "log") => 5,
        Some(_) => 3,
        None => 1,
    };
    let in_header = |text: &str| text.replace('\\', "\\\\").replace('|', "\\|").replace(['\r', '\n'], " ");
    let mut line = format!(
        "CEF:0|interdict|interdict|{}|{}|{}|{severity}|",
        env!("CARGO_PKG_VERSION"),
        in_header(signature),
        in_header(name)
    );
    let mut extension = |key: &str, value: &Value| {
        let shown = match value {
            Value::Null => return,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let shown = shown.replace('\\', "\\\\").replace('=', "\\=").replace('\r', "\\r").replace('\n', "\\n");
        let _ = write!(line, "{key}={shown} ");
    };
    extension("rt", &(micros(event, "time") / 1000).into());
    extension("externalId", &event["id"]);
    extension("dvchost", &event["node"]);
    extension("start", &(micros(event, "first") / 1000).into());
    extension("end", &(micros(event, "last") / 1000).into());
    extension("cnt", &event["count"]);
    extension("src", &event["client"]);
    extension("act", &event["verdict"]);
    extension("app", &event["channel"]);
    match about {
        About::Name => {
            extension("destinationDnsDomain", &asked["name"]);
            extension("dst", &asked["resolver"]);
        }
        About::Address => {
            extension("dst", &asked["address"]);
            extension("dpt", &asked["port"]);
            extension("proto", &asked["protocol"]);
        }
        About::Act => {}
    }
    let labelled = [
        ("cs1", "rule", &event["rule"]),
        ("cs2", "role", &event["role"]),
        ("cs3", "unit", &event["unit"]),
        ("cs4", "depth", &event["depth"]),
        ("cs5", "policy", &event["digest"]),
        ("cs6", "exemption", &event["exemption"]),
    ];
    for (key, label, value) in labelled.into_iter().filter(|(_, _, value)| !value.is_null()) {
        extension(key, value);
        extension(&format!("{key}Label"), &label.into());
    }
    extension("sproc", &event["process"]["name"]);
    extension("spid", &event["process"]["pid"]);
    if !event["detail"].is_null() {
        extension("msg", &event["detail"].to_string().into());
    }
    line.truncate(line.trim_end().len());
    line
}

fn csv(event: &Value) -> String {
    let asked = &event["asked"];
    let value = |column: &&str| match *column {
        "name" | "type" | "resolver" | "address" | "port" | "protocol" => &asked[*column],
        column => &event[column],
    };
    let cells = COLUMNS.iter().map(|column| match value(column) {
        Value::Null => String::new(),
        Value::String(text) => csv_cell(text),
        Value::Number(number) => number.to_string(),
        other => csv_cell(&other.to_string()),
    });
    cells.collect::<Vec<_>>().join(",")
}

/// A text in a table (RFC 4180). A spreadsheet would run one that begins like a formula; an apostrophe in front keeps it from that.
pub fn csv_cell(text: &str) -> String {
    let is_formula = text != "-" && text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    match text.contains([',', '"', '\r', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DNS: &str = r#"{"id":"gw-7","node":"gw","seq":7,"time":"2026-11-26T09:00:00.250000Z","mono_ns":1,"clock":"synchronized","plane":"dns","channel":"udp","client":"10.0.0.9","unit":"hq","asked":{"name":"s07.upd.v.example","type":"A","resolver":"8.8.8.8"},"verdict":"block","rule":"v-update","role":"update","digest":"ab","count":3,"first":"2026-11-26T09:00:00.250000Z","last":"2026-11-26T09:00:01.000000Z","depth":"asked"}"#;
    const PACKET: &str = r#"{"id":"gw-8","node":"gw","seq":8,"time":"2026-11-26T09:00:02.000000Z","mono_ns":1,"clock":"synchronized","plane":"packet","channel":"cgroup","client":null,"unit":null,"asked":{"address":"192.0.2.1","port":443,"protocol":"tcp"},"verdict":"log","rule":"v-net","role":"update","digest":"ab","count":0,"first":"2026-11-26T09:00:02.000000Z","last":"2026-11-26T09:00:02.000000Z","depth":"received","act":"contact.over","detail":{"bytes_out":10,"bytes_in":20,"packets_out":1,"packets_in":2},"process":{"pid":4,"name":"=a|b\\c","cgroup":"/"}}"#;
    const ACT: &str = r#"{"id":"gw-9","node":"gw","seq":9,"time":"2026-11-26T09:00:03.000000Z","mono_ns":1,"clock":"synchronized","plane":"admin","channel":null,"client":null,"unit":null,"asked":null,"verdict":null,"rule":null,"role":null,"digest":null,"count":1,"first":"2026-11-26T09:00:03.000000Z","last":"2026-11-26T09:00:03.000000Z","depth":null,"act":"policy.applied","detail":{"why":"a=b\nc, \"d\""}}"#;

    #[test]
    fn every_format_has_its_fields() {
        let value = |format: Format, line: &str| serde_json::from_str::<Value>(&format.write(line)).unwrap();
        let dns = value(Format::Ocsf, DNS);
        assert_eq!(
            (&dns["class_uid"], &dns["type_uid"], &dns["action_id"]),
            (&json!(4003), &json!(400_301), &json!(2))
        );
        assert_eq!(dns["query"], json!({ "hostname": "s07.upd.v.example", "type": "A", "class": "IN" }));
        assert_eq!(
            (&dns["time"], &dns["dst_endpoint"]["ip"]),
            (&json!(1_795_683_600_250_i64), &json!("8.8.8.8"))
        );
        let packet = value(Format::Ocsf, PACKET);
        assert_eq!(
            (&packet["class_uid"], &packet["activity_id"], &packet["disposition_id"]),
            (&json!(4001), &json!(6), &json!(17))
        );
        assert_eq!(
            packet["traffic"],
            json!({ "bytes_out": 10, "bytes_in": 20, "packets_out": 1, "packets_in": 2 })
        );
        let act = value(Format::Ocsf, ACT);
        assert_eq!(
            (&act["class_uid"], &act["activity_name"], act.get("action_id")),
            (&json!(0), &json!("policy.applied"), None)
        );
        let dns = value(Format::Ecs, DNS);
        assert_eq!(
            (&dns["dns"]["question"]["name"], &dns["source"]["ip"]),
            (&json!("s07.upd.v.example"), &json!("10.0.0.9"))
        );
        assert_eq!(
            (&dns["event"]["type"], &dns["rule"]["id"]),
            (&json!(["connection", "denied"]), &json!("v-update"))
        );
        assert!(value(Format::Ecs, ACT).get("source").is_none());
        assert_eq!(Format::Json.write(DNS), DNS);
        for format in Format::ALL {
            assert_eq!(format.as_str().parse(), Ok(format));
            for line in [DNS, PACKET, ACT] {
                assert!(!format.write(line).contains(['\n', '\r']), "{format:?}");
            }
        }
    }

    #[test]
    fn nothing_in_an_event_breaks_out_of_its_field() {
        let cef = Format::Cef.write(PACKET);
        assert!(cef.starts_with("CEF:0|interdict|interdict|"), "{cef}");
        assert!(cef.contains(r"|v-net|contact observed|5|rt=") && cef.contains(r"sproc=\=a|b\\c"), "{cef}");
        assert!(
            Format::Cef.write(ACT).contains(r#"msg={"why":"a\=b\\nc, \\"d\\""}"#),
            "{}",
            Format::Cef.write(ACT)
        );
        let csv = Format::Csv.write(ACT);
        assert!(csv.contains(r#""{""why"":""a=b\nc, \""d\""""}""#), "{csv}");
        for (text, expect) in [
            ("=1+1", "'=1+1"),
            ("+1", "'+1"),
            ("-1", "'-1"),
            ("@x", "'@x"),
            ("\tx", "'\tx"),
            ("a,b", "\"a,b\""),
            ("=a\"b", "\"'=a\"\"b\""),
            ("plain", "plain"),
        ] {
            assert_eq!(csv_cell(text), expect);
        }
        let columns = Format::Csv.header().unwrap().split(',').count();
        assert_eq!(Format::Csv.write(DNS).split(',').count(), columns);
    }
}
