//! Who else translates a port: `show` reads the tables of others, whatever they are called.

use serde_json::Value;

use cni_testbox::{HOST_V4, TestBox, Transport, cases, run};

use crate::restore::{Node, PORT};

cases! {
    native_tables_are_read, ours;
}

fn native_tables_are_read(b: &TestBox) {
    let node = Node::new(b);
    node.add("web", PORT);
    b.host.serve("other", 9090);
    b.nft(
        "table ip x {
            chain early {
                type nat hook prerouting priority -110;
                tcp dport 22 redirect to :9090
                ip daddr 198.51.100.1 tcp dport 8080 redirect to :9090
            }
            chain late { type nat hook output priority 0; udp dport 8080 dnat to 192.0.2.1; }
        }
        table inet kube-proxy {
            map nodeports { type inet_proto . inet_service : verdict; elements = { tcp . 8080 : goto web }; }
            chain web { dnat ip to 192.0.2.2; }
            chain ports { type nat hook prerouting priority -90; meta l4proto . th dport vmap @nodeports; }
        }
        table ip6 y {
            chain pre { type nat hook prerouting priority -110; iifname \"ext0\" tcp dport 8000-8100 redirect to :1; }
        }
        table ip elsewhere {
            chain pre { type nat hook prerouting priority -110; tcp dport 8081 redirect to :1; }
            chain post { type nat hook postrouting priority 100; tcp dport 8080 masquerade; }
            chain filter { type filter hook prerouting priority 0; tcp dport 8080 drop; }
        }",
    );
    let shown = |subject: &str| -> Vec<[String; 3]> {
        let printed = run(&mut node.cni_chain(&["show", subject, "--json"]));
        let shown: Value = serde_json::from_str(&printed).expect("JSON");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = shown["translations"].as_array().expect("a list").clone();
        list.iter().map(|t| ["place", "program", "rule"].map(|key| text(&t[key]))).collect()
    };
    let rows =
        |rows: &[[&str; 3]]| rows.iter().map(|row| row.map(str::to_owned)).collect::<Vec<_>>();
    let tcp = [
        ["table ip x", "", "early ip daddr 198.51.100.1 tcp dport 8080 redirect to :9090"],
        ["table inet kube-proxy", "kube-proxy", "web dnat ip to 192.0.2.2"],
        ["table ip6 y", "", "pre iifname \"ext0\" tcp dport 8000-8100 redirect to :1"],
    ];
    assert_eq!(shown("8080/tcp"), rows(&tcp));
    assert_eq!(
        shown("8080/udp"),
        rows(&[["table ip x", "", "late udp dport 8080 dnat to 192.0.2.1"]])
    );
    assert_eq!(shown("8080").len(), 4);
    assert_eq!(shown("9999"), rows(&[]));
    // It is so: the connection does not come to the container.
    b.out.reach(Transport::Tcp, HOST_V4, PORT).by("other");
}
