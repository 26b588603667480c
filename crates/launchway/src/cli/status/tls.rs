//! The certificate of an environment: for which names, until when, and what is wrong or waited for.

use domain::Timestamp;
use domain::certificate::{CertificateView, Validity};

use crate::cli::paint::{Paint, ago, left};

/// One line for the names, one for the certificate in force, and one for what is to be said of it.
pub fn lines(seen: &CertificateView, now: Timestamp, paint: Paint) -> Vec<String> {
    let in_force = match seen.validity {
        Some(validity) => format!("{}; {}", held(validity, now, paint), seen.source),
        None => format!("{}; {}", paint.bad("no certificate yet"), seen.source),
    };
    let note = seen.note.as_ref().map(|note| paint.bad(note));
    [seen.names.join(", "), in_force].into_iter().chain(note).collect()
}

fn held(validity: Validity, now: Timestamp, paint: Paint) -> String {
    let (from, until) = (moment(validity.from), moment(validity.until));
    let how = match validity.expired(now) {
        true => paint.bad(&format!("expired {}", ago(now, validity.until))),
        false => left(now, validity.until),
    };
    format!("from {from} until {until}, {how}")
}

/// To the minute: `2026-11-23 09:30 UTC`.
fn moment(time: Timestamp) -> String {
    let text = time.to_string();
    match text.get(..16) {
        Some(minute) => format!("{} UTC", minute.replace('T', " ")),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(validity: Option<Validity>, note: Option<&str>) -> CertificateView {
        CertificateView {
            names: vec!["shop.example.com".into(), "www.example.com".into()],
            source: "https://ca.example.com/dir".into(),
            validity,
            note: note.map(str::to_owned),
        }
    }

    fn at(text: &str) -> Timestamp {
        serde_json::from_value(text.into()).unwrap()
    }

    #[test]
    fn a_certificate_is_shown_with_its_names_its_life_and_why_its_successor_waits() {
        let validity =
            Validity { from: at("2026-09-01T08:15:00Z"), until: at("2026-11-30T08:15:00Z") };
        let why = "waits for ca.example.com: reaching the CA: refused; next try in 4m";
        let seen = seen(Some(validity), Some(why));
        let shown = lines(&seen, at("2026-11-23T08:15:00Z"), Paint::plain());
        let wanted = [
            "shop.example.com, www.example.com",
            "from 2026-09-01 08:15 UTC until 2026-11-30 08:15 UTC, for 7 d more; https://ca.example.com/dir",
            why,
        ];
        assert_eq!(shown, wanted);
        let late = lines(&seen, at("2026-11-30T11:15:00Z"), Paint::plain());
        assert!(late[1].contains("expired 3 h ago"), "{late:?}");
    }

    #[test]
    fn an_environment_without_a_certificate_says_what_is_missing() {
        let deaf = "the server has no address for TLS: start it with --https ADDRESS";
        let shown = lines(&seen(None, Some(deaf)), at("2026-11-23T08:15:00Z"), Paint::plain());
        assert_eq!(shown[1], "no certificate yet; https://ca.example.com/dir");
        assert_eq!(shown[2], deaf);
    }
}
