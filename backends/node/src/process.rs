//! What the system says of this process, by the names that all Prometheus clients give it.

use std::fs;

use prometheus::proto::MetricType;

use crate::metrics::{Family, family};

/// `process_*`. What cannot be read is absent.
pub(crate) fn families() -> Vec<Family> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
    let open = fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as f64);
    read(&stat, &limits, &boot, open, rustix::param::clock_ticks_per_second() as f64, rustix::param::page_size() as f64)
}

fn read(stat: &str, limits: &str, boot: &str, open: Option<f64>, ticks: f64, page: f64) -> Vec<Family> {
    // The name in brackets may hold anything, so the numbers are counted from its end: state is field 3 of proc(5).
    let fields: Vec<&str> =
        stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().collect()).unwrap_or_default();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    let limit = |name: &str| {
        let soft = limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?;
        if soft == "unlimited" { Some(f64::INFINITY) } else { soft.parse().ok() }
    };
    let booted = boot.lines().find_map(|line| line.strip_prefix("btime ")).and_then(|at| at.trim().parse::<f64>().ok());
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / ticks);
    let start = field(22).zip(booted).map(|(after, booted)| booted + after / ticks);
    use MetricType::{COUNTER, GAUGE};
    [
        ("process_cpu_seconds_total", "Time on a CPU, of users and system; seconds", COUNTER, cpu),
        ("process_threads", "Threads", GAUGE, field(20)),
        ("process_open_fds", "Open files", GAUGE, open),
        ("process_max_fds", "Files that may be open", GAUGE, limit("Max open files")),
        ("process_virtual_memory_bytes", "Size of the address space", GAUGE, field(23)),
        ("process_virtual_memory_max_bytes", "Largest address space", GAUGE, limit("Max address space")),
        ("process_resident_memory_bytes", "Memory in use", GAUGE, field(24).map(|pages| pages * page)),
        ("process_start_time_seconds", "When the process began; seconds since 1970", GAUGE, start),
    ]
    .into_iter()
    .filter_map(|(name, help, kind, value)| Some(family(name, help, kind, vec![(vec![], value?)])))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_found_behind_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 12 0 1000 4096000 100 18446744073709551615";
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024     4096     files\n\
                      Max address space         unlimited            unlimited            bytes\n";
        let found = read(stat, limits, "cpu 1\nbtime 1000000\n", Some(9.0), 100.0, 4096.0);
        let values: Vec<(String, f64)> = found
            .iter()
            .map(|f| {
                let metric = &f.get_metric()[0];
                let value = match f.get_field_type() {
                    MetricType::COUNTER => metric.get_counter().get_value(),
                    _ => metric.get_gauge().get_value(),
                };
                (f.name().to_string(), value)
            })
            .collect();
        let wanted = [
            ("process_cpu_seconds_total", 3.0),
            ("process_threads", 12.0),
            ("process_open_fds", 9.0),
            ("process_max_fds", 1024.0),
            ("process_virtual_memory_bytes", 4_096_000.0),
            ("process_virtual_memory_max_bytes", f64::INFINITY),
            ("process_resident_memory_bytes", 409_600.0),
            ("process_start_time_seconds", 1_000_010.0),
        ];
        assert_eq!(values, wanted.map(|(name, value)| (name.to_string(), value)));
    }

    #[test]
    fn what_cannot_be_read_is_absent() {
        assert_eq!(read("", "", "", None, 100.0, 4096.0), []);
        assert!(families().len() >= 7, "{:?}", families());
    }
}
