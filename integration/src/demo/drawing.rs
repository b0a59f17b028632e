//! The three places of the demo and what connects them, in a few lines of text.

use ipnet::IpNet;

use super::plan::{BRIDGE, ECHO, IFNAME, Mapping, PAGE, Plan, UPLINK};

/// What a row of the drawing connects.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    /// Nothing.
    Apart,
    /// The link between two neighbours.
    Link,
    /// A mapped port of the host, to the container.
    Mapping,
}

/// The drawing.
pub(super) fn draw(plan: &Plan) -> Vec<String> {
    let outside = interface(UPLINK, &plan.outside);
    let [uplink, bridge] = [(UPLINK, &plan.host), (BRIDGE, &plan.gateway)]
        .map(|(name, addresses)| interface(name, addresses));
    let container = interface(IFNAME, &plan.container);
    let uplink_width = width(&uplink);
    let host = uplink.iter().zip(&bridge);
    let host: Vec<String> =
        host.map(|(left, right)| format!("{left:<uplink_width$}  {right}")).collect();

    let mut rows: Vec<(Row, [String; 3])> = Vec::new();
    for ((outside, host), container) in outside.into_iter().zip(host).zip(container) {
        let row = if rows.is_empty() { Row::Link } else { Row::Apart };
        rows.push((row, [outside, host, container]));
    }
    for (mapping, what) in [(PAGE, "a page"), (ECHO, "an echo")] {
        let Mapping { protocol, host, container } = mapping;
        let (host, container) = (format!("{host}/{protocol}"), format!("{container}/{protocol}"));
        rows.push((Row::Mapping, [String::new(), host, format!("{container:<6} {what}")]));
    }
    boxes(["outside", "host", "container"], &rows)
}

/// An interface's name and addresses, one line for each address.
fn interface(name: &str, addresses: &[IpNet]) -> Vec<String> {
    let label = |index| if index == 0 { name } else { "" };
    let width = name.len();
    let lines = addresses.iter().enumerate();
    lines.map(|(index, net)| format!("{:<width$} {}", label(index), net.addr())).collect()
}

fn boxes(titles: [&str; 3], rows: &[(Row, [String; 3])]) -> Vec<String> {
    let widths: [usize; 3] = std::array::from_fn(|column| {
        rows.iter().map(|(_, cells)| cells[column].chars().count()).max().unwrap_or_default()
    });
    let frame = |left: char, right: char, titles: [&str; 3]| {
        let edge = |column: usize| {
            let title = match titles[column] {
                "" => String::new(),
                title => format!(" {title} "),
            };
            format!("{left}{title:─<width$}{right}", width = widths[column] + 2)
        };
        [edge(0), edge(1), edge(2)].join(" ")
    };
    let mut lines = vec![frame('┌', '┐', titles)];
    lines.extend(rows.iter().map(|(row, cells)| line(*row, cells, widths)));
    lines.push(frame('└', '┘', [""; 3]));
    lines
}

fn line(row: Row, [left, middle, right]: &[String; 3], [a, b, c]: [usize; 3]) -> String {
    match row {
        Row::Apart => format!("│ {left:<a$} │ │ {middle:<b$} │ │ {right:<c$} │"),
        Row::Link => format!("│ {left:<a$} ├─┤ {middle:<b$} ├─┤ {right:<c$} │"),
        Row::Mapping => {
            let middle = format!("{middle} ");
            format!("│ {left:<a$} │ │ {middle:─<b$}─┼─┼▶{right:<c$} │")
        }
    }
}

fn width(lines: &[String]) -> usize {
    lines.iter().map(|line| line.chars().count()).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_has_the_same_width_and_fits() {
        for ipv6 in [false, true] {
            let lines = draw(&Plan::new(ipv6));
            let widths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
            assert!(widths.iter().all(|width| *width == widths[0]), "{}", lines.join("\n"));
            assert!(widths[0] + 2 <= 80, "{}", lines.join("\n"));
        }
    }
}
