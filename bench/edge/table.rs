//! The report for people.

use super::idle::Idle;
use super::report::{Machine, Report, Row};
use super::routes::Grown;
use super::statistics::Spread;
use crate::peers::Kind;

/// What the machine and the run are.
pub fn machine(machine: &Machine) {
    println!(
        "{} cores, load {:.2} before the run{}; as many workers for every proxy and for the backend",
        machine.cores,
        machine.load_before,
        if machine.quick { ", quick" } else { "" },
    );
    for (name, version) in &machine.versions {
        println!("  {name}: {version}");
    }
}

/// One scenario, all proxies.
pub fn scenario(row: &Row) {
    println!("\n{}", row.name);
    println!(
        "  {:12}{:>12}{:>11}{:>11}{:>10}{:>10}{:>10}{:>10}{:>9}{:>8}",
        "",
        "requests/s",
        "CPU µs",
        "rate/s",
        "CPU µs",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "MiB",
        "failed"
    );
    for kind in Kind::ALL {
        let Some(of) = row.peers.get(kind.name()) else { continue };
        if of.figures.rounds.is_empty() {
            println!("  {:12}NOT MEASURED", kind.name());
            continue;
        }
        println!(
            "  {:12}{:>12}{:>11}{:>11}{:>10}{:>10}{:>10}{:>10}{:>9}{:>8}",
            kind.name(),
            number(of.requests_per_second, 0),
            number(of.cpu_us, 1),
            number(of.rate, 0),
            number(of.cpu_us_at_rate, 1),
            millis(of.p50_us),
            millis(of.p99_us),
            millis(of.p999_us),
            number(of.memory_mib, 1),
            of.failed,
        );
    }
    let Some(ratios) = row.ratios.get("nginx") else { return };
    println!(
        "  edge / nginx: CPU {}, p99 {}, requests/s {}, CPU at rate {}",
        ratio(ratios.cpu),
        ratio(ratios.p99),
        ratio(ratios.requests_per_second),
        ratio(ratios.cpu_at_rate),
    );
}

/// One size of the table.
pub fn routes(grown: &Grown) {
    println!(
        "\n{} routes, each request to another one (HTTP/1.1, 1 KiB, keep-alive, 64 clients)",
        grown.routes
    );
    println!("  {:12}{:>12}{:>11}{:>9}", "", "publish ms", "CPU µs", "MiB");
    for (peer, cost) in &grown.peers {
        let cpu = Spread::of(cost.cpu_us.iter().copied()).map(|spread| spread.median);
        println!(
            "  {peer:12}{:>12}{:>11}{:>9}",
            number(cost.publish_ms, 1),
            number(cpu, 1),
            number(cost.memory_mib, 1)
        );
    }
    println!("  edge / nginx: CPU {}", ratio(grown.cpu_ratio_nginx));
}

/// One proxy's idle connections.
pub fn idle(idle: &Idle) {
    let kind = if idle.tls { "TLS" } else { "plain" };
    print!("  {:12}{kind:7}{:>8.1} MiB at the start", idle.peer, idle.base_mib);
    for level in &idle.levels {
        print!("; {}: {:.2} KiB each", level.connections, level.bytes_per_connection / 1024.0);
    }
    println!("{}", if idle.missing.is_some() { "; NOT MEASURED FURTHER" } else { "" });
}

/// The conclusions.
pub fn conclusions(report: &Report) {
    println!("\nThe edge as a ratio to nginx");
    for bar in &report.bars {
        let held = if bar.ok { "ok" } else { "OVER" };
        println!("  {:52}{:>8}  limit {:.2}  {held}", bar.name, number(bar.figure, 3), bar.limit);
    }
    if !report.missing.is_empty() {
        println!("\nNOT MEASURED");
        report.missing.iter().for_each(|line| println!("  {line}"));
    }
    println!("\nLeft out");
    report.left_out.iter().for_each(|line| println!("  {line}"));
}

fn ratio(spread: Option<Spread>) -> String {
    spread.map_or("-".into(), |spread| {
        format!("{:.2} ({:.2}..{:.2})", spread.median, spread.low, spread.high)
    })
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".into(), |value| format!("{value:.digits$}"))
}

fn millis(micros: Option<f64>) -> String {
    number(micros.map(|micros| micros / 1000.0), 2)
}
