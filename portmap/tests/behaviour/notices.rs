//! What ADD says of mappings that will not do what their owner expects.

use std::net::SocketAddr;

use cni_testbox::{
    HOST_V4, HOST_V6, Network, Outcome, TestBox, Transport, at, both, cases, ip, portmap, tcp, udp,
};
use serde_json::Value;

cases! {
    a_host_ip_that_is_nobodys, backends;
    a_program_of_the_host_that_loses_its_port, backends;
    the_log_says_what_was_mapped, backends;
}

fn warnings(outcome: &Outcome) -> Vec<&str> {
    outcome.stderr.lines().filter(|line| line.starts_with("warning: ")).collect()
}

fn a_host_ip_that_is_nobodys(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let mut mappings = at(both(8080, 80), "192.0.2.77");
    mappings.extend(at(both(8081, 80), "2001:db8:77::1"));
    mappings.extend(at(both(8082, 80), HOST_V4));
    mappings.extend(at(both(8083, 80), HOST_V6));
    mappings.extend(both(8084, 80));
    let outcome = portmap("ADD", &web).mappings(&mappings).run(b);
    let told = warnings(&outcome);
    assert_eq!(told.len(), 2, "{outcome}");
    for (line, address, port) in [(told[0], "192.0.2.77", 8080), (told[1], "2001:db8:77::1", 8081)]
    {
        assert!(line.contains(&format!("hostIP {address} is no address of this host")), "{line}");
        assert_eq!(line.matches(&format!(":{port}/")).count(), 2, "{line}");
    }
}

fn a_program_of_the_host_that_loses_its_port(b: &TestBox) {
    let web = b.web(&Network::dual(1), "web");
    let serve = |address: &str, port| {
        b.host.serve_at("program", SocketAddr::new(ip(address), port));
    };
    for (address, port) in [
        ("::", 8080),
        ("127.0.0.1", 8081),
        (HOST_V4, 8082),
        ("::1", 8083),
        (HOST_V6, 8084),
        ("198.51.100.11", 8085),
    ] {
        serve(address, port);
    }
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("program");
    let mut mappings = vec![tcp(8080, 80), udp(8081, 80), tcp(8083, 80), tcp(8086, 80)];
    mappings.extend(at(both(8082, 80), HOST_V4));
    mappings.push(tcp(8084, 80).at(HOST_V6));
    mappings.push(tcp(8085, 80).at(HOST_V4));
    let outcome = portmap("ADD", &web).mappings(&mappings).run(b);
    let told = warnings(&outcome);
    let expected = [
        "has 127.0.0.1:8080/tcp as well",
        "has [::]:8080/tcp as well",
        "has 127.0.0.1:8081/udp as well",
        "has 198.51.100.1:8082/tcp as well",
        "has 198.51.100.1:8082/udp as well",
        "has [2001:db8:100::1]:8084/tcp as well",
    ];
    assert_eq!(told.len(), expected.len(), "{outcome}");
    for words in expected {
        assert_eq!(
            told.iter().filter(|line| line.contains(words)).count(),
            1,
            "{words}: {outcome}"
        );
    }
    // It is so.
    b.out.reach(Transport::Tcp, HOST_V4, 8080).by("web");
    b.out.reach(Transport::Tcp, HOST_V4, 8082).by("web");
    // The next ADD has no more to say than the first, and another port has nothing.
    let quiet = portmap("ADD", &web).mappings(&[tcp(8086, 80)]).run(b);
    assert_eq!(warnings(&quiet), [""; 0]);
}

fn the_log_says_what_was_mapped(b: &TestBox) {
    let web = b.web(&Network::v4(1), "web");
    let file = "/run/portmap.log";
    let add = |level: &str| {
        let call = portmap("ADD", &web).mappings(&[tcp(8080, 80), udp(53, 5353).at(HOST_V4)]);
        call.set("logFile", file).set("logLevel", level).run(b).expect_result();
        let log = std::fs::read_to_string(file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        let lines: Vec<Value> =
            log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        lines.iter().filter_map(|line| Some(line["msg"].as_str()?.to_owned())).collect::<Vec<_>>()
    };
    let told = add("info");
    let address = web.v4();
    assert!(
        told.iter().any(|line| line.starts_with("mapped in ")
            && line.contains(&format!("*:8080/tcp -> {address}:80"))
            && line.contains(&format!("{HOST_V4}:53/udp -> {address}:5353"))),
        "{told:?}"
    );
    assert!(!add("warn").iter().any(|line| line.contains("8080")));
}
