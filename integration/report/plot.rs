//! Plots as SVG: readable in light and dark, with labels where the eye is, and nothing else.

use std::fmt::Write as _;

use crate::calls::{self, CASES, MS};
use crate::compared::{BOTH, floor, go, ours, values};
use crate::many::{ATTACHMENTS, MAPPINGS, curve};
use crate::record::{GO, OURS, Of, Record};
use crate::spread::{Spread, short};
use crate::table::thousands;

const WIDTH: f64 = 820.0;
/// Between the lines of text.
const LINE: f64 = 17.0;
/// Who is meant by a colour: floor, ours, Go, and others.
const COLOURS: [(&str, &str); 5] = [
    ("#6e7781", "#9198a1"),
    ("#0969da", "#58a6ff"),
    ("#bc4c00", "#f0883e"),
    ("#8250df", "#bc8cff"),
    ("#1a7f37", "#3fb950"),
];

/// Those that there are numbers for.
pub(crate) fn all(record: &Record) -> Vec<(&'static str, String)> {
    let plots = [
        ("costs.svg", costs(record)),
        ("attachments.svg", attachments(record)),
        ("mappings.svg", mappings(record)),
    ];
    plots.into_iter().filter_map(|(name, plot)| Some((name, plot?))).collect()
}

fn costs(record: &Record) -> Option<String> {
    let mut rows = Vec::new();
    let all = CASES.iter().map(|(case, _)| ("calls", *case)).chain([("chain", "")]);
    for (scene, plugin) in all {
        let mine = ours(scene, plugin).command(BOTH);
        let mut all = vec![
            ("floor".to_owned(), floor(record, mine, "cpu")),
            (OURS.to_owned(), values(record, mine, "cpu")),
        ];
        let mut others = record.measured(scene, plugin);
        // Of two backends, the first is the one that needs no iptables.
        others.dedup_by_key(|(by, _)| *by);
        for (by, backend) in others.into_iter().filter(|(by, _)| *by != OURS) {
            all.push((record.label(by), values(record, mine.by(by, backend), "cpu")));
        }
        let dot = |(place, (who, values)): (usize, (String, Vec<f64>))| {
            let value = Spread::of(&values)?.middle * MS;
            Some(Dot { colour: place % COLOURS.len(), who, value })
        };
        let dots: Vec<Dot> = all.into_iter().enumerate().filter_map(dot).collect();
        if !dots.is_empty() {
            let name =
                if plugin.is_empty() { "all four, a pod".into() } else { calls::name(plugin) };
            rows.push((name, dots));
        }
    }
    (!rows.is_empty()).then(|| {
        dot_plot(
            "CPU time of ADD and DEL together, milliseconds (each line ten times the last)",
            &rows,
        )
    })
}

struct Dot {
    colour: usize,
    who: String,
    value: f64,
}

/// A row for each name, on a logarithmic scale.
fn dot_plot(title: &str, rows: &[(String, Vec<Dot>)]) -> String {
    const ROW: f64 = 46.0;
    const TOP: f64 = 80.0;
    let values = rows.iter().flat_map(|(_, dots)| dots.iter().map(|dot| dot.value));
    let scale = Scale::around(values, 150.0, WIDTH - 60.0);
    let mut y = TOP;
    let mut body = String::new();
    for (name, dots) in rows {
        body += &text(12.0, y + 5.0, "start", "ink", name);
        // In the order of their values, whoever they are of.
        let mut dots: Vec<&Dot> = dots.iter().collect();
        dots.sort_by(|one, other| one.value.total_cmp(&other.value));
        let place = |dot: &&Dot| scale.at(dot.value);
        let (first, last) = (dots.first().map_or(0.0, place), dots.last().map_or(0.0, place));
        let _ = writeln!(
            body,
            r#"<line class="rule" x1="{first:.1}" y1="{y:.1}" x2="{last:.1}" y2="{y:.1}"/>"#
        );
        let mut free = f64::MIN;
        for dot in dots {
            let x = place(&dot);
            let _ = writeln!(
                body,
                r#"<circle class="c{}" cx="{x:.1}" cy="{y:.1}" r="5.5"/>"#,
                dot.colour
            );
            // Numbers that would touch stand on both sides of their row.
            let label = short(dot.value);
            let above = x - free > 44.0;
            let at = if above { y - 10.0 } else { y + 20.0 };
            if above {
                free = x;
            }
            body += &text(x, at, "middle", &format!("t{}", dot.colour), &label);
        }
        y += ROW;
    }
    let mut legend = 150.0;
    if let Some((_, dots)) = rows.iter().max_by_key(|(_, dots)| dots.len()) {
        for dot in dots {
            let _ = writeln!(
                body,
                r#"<circle class="c{}" cx="{legend:.1}" cy="40" r="5.5"/>"#,
                dot.colour
            );
            body += &text(legend + 11.0, 45.0, "start", &format!("t{}", dot.colour), &dot.who);
            legend += 120.0;
        }
    }
    let lines = scale.lines(TOP - 18.0, y - 18.0);
    svg(title, y + 6.0, &(lines + &body))
}

fn attachments(record: &Record) -> Option<String> {
    let mut lines = Vec::new();
    let go_label = record.label(GO);
    for (plugin, mine, theirs) in [("portmap", 1, 2), ("firewall", 4, 3)] {
        let of = ours("attachments", plugin);
        lines.push(Line {
            name: format!("{plugin}, ours"),
            colour: mine,
            points: curve(record, of, &ATTACHMENTS),
        });
        let of = go("attachments", plugin);
        let name = format!("{plugin}, {go_label}");
        lines.push(Line { name, colour: theirs, points: curve(record, of, &ATTACHMENTS) });
    }
    line_plot(
        "CPU time of ADD and DEL of one attachment, milliseconds",
        "beside so many others",
        &ATTACHMENTS,
        lines,
    )
}

fn mappings(record: &Record) -> Option<String> {
    let of = |by, backend| Of::scene("mappings").plugin("portmap").by(by, backend);
    let line =
        |name: String, colour, of| Line { name, colour, points: curve(record, of, &MAPPINGS) };
    let lines = vec![
        line("ours".into(), 1, of("ours", "nftables")),
        line("ours on iptables".into(), 4, of("ours", "iptables")),
        line(record.label(GO), 2, of(GO, "iptables")),
    ];
    line_plot(
        "CPU time of portmap's ADD and DEL, milliseconds",
        "mappings in one call",
        &MAPPINGS,
        lines,
    )
}

struct Line {
    name: String,
    colour: usize,
    /// Which level, and the value.
    points: Vec<(usize, f64)>,
}

fn line_plot(title: &str, below: &str, levels: &[u64], lines: Vec<Line>) -> Option<String> {
    const TOP: f64 = 46.0;
    const BOTTOM: f64 = 330.0;
    const STEP: f64 = 165.0;
    let lines: Vec<Line> = lines.into_iter().filter(|line| !line.points.is_empty()).collect();
    let values = || lines.iter().flat_map(|line| line.points.iter().map(|(_, value)| *value));
    values().next()?;
    let scale = Scale::around(values(), BOTTOM, TOP);
    let x = |level: usize| 70.0 + STEP * f64::from(u32::try_from(level).unwrap_or(0));
    let mut body = String::new();
    for decade in scale.decades() {
        let y = scale.at(decade);
        let _ = writeln!(
            body,
            r#"<line class="grid" x1="58" y1="{y:.1}" x2="{:.1}" y2="{y:.1}"/>"#,
            x(levels.len() - 1)
        );
        body += &text(52.0, y + 4.0, "end", "faint", &short_decade(decade));
    }
    for (place, level) in levels.iter().enumerate() {
        body += &text(x(place), BOTTOM + 20.0, "middle", "faint", &thousands(*level));
    }
    body += &text(x(levels.len() - 1) + 60.0, BOTTOM + 20.0, "start", "faint", below);
    let mut labels = Vec::new();
    for Line { name, colour, points } in &lines {
        let places: Vec<String> = points
            .iter()
            .map(|(level, value)| format!("{:.1},{:.1}", x(*level), scale.at(*value)))
            .collect();
        let _ = writeln!(body, r#"<polyline class="l{colour}" points="{}"/>"#, places.join(" "));
        for (level, value) in points {
            let (x, y) = (x(*level), scale.at(*value));
            let _ = writeln!(body, r#"<circle class="c{colour}" cx="{x:.1}" cy="{y:.1}" r="4"/>"#);
        }
        if let Some((level, value)) = points.last() {
            labels.push((
                scale.at(*value),
                x(*level) + 10.0,
                *colour,
                format!("{name} {}", short(*value)),
            ));
        }
    }
    // From the top down, each at least a line below the one before in its column.
    labels.sort_by(|one, other| one.1.total_cmp(&other.1).then(one.0.total_cmp(&other.0)));
    let (mut column, mut free) = (f64::MIN, f64::MIN);
    for (y, x, colour, label) in labels {
        let y = if x > column { y } else { y.max(free) };
        body += &text(x, y + 4.0, "start", &format!("t{colour}"), &label);
        (column, free) = (x, y + LINE);
    }
    Some(svg(title, BOTTOM + 36.0, &body))
}

/// Decades from one place to another.
struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn around(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), value| {
            (low.min(value.log10()), high.max(value.log10()))
        });
        let low = low.floor();
        Self { low, high: high.ceil().max(low + 1.0), from, to }
    }

    fn at(&self, value: f64) -> f64 {
        self.from + (value.log10() - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    fn decades(&self) -> impl Iterator<Item = f64> {
        let (low, high) = (self.low, self.high);
        (0..)
            .map(f64::from)
            .map(move |step: f64| low + step)
            .take_while(move |exponent| *exponent <= high)
            .map(|exponent| 10_f64.powf(exponent))
    }

    fn lines(&self, top: f64, bottom: f64) -> String {
        let mut lines = String::new();
        for decade in self.decades() {
            let x = self.at(decade);
            let _ = writeln!(
                lines,
                r#"<line class="grid" x1="{x:.1}" y1="{top:.1}" x2="{x:.1}" y2="{bottom:.1}"/>"#
            );
            lines += &text(x, bottom + 14.0, "middle", "faint", &short_decade(decade));
        }
        lines
    }
}

fn short_decade(decade: f64) -> String {
    if decade < 1.0 { format!("{decade}") } else { format!("{decade:.0}") }
}

fn text(x: f64, y: f64, anchor: &str, class: &str, text: &str) -> String {
    let text = escaped(text);
    format!(
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// With both sets of colours, and a ground of its own: a page may be dark where the reader's system is light.
fn svg(title: &str, height: f64, body: &str) -> String {
    let mut style = String::from(
        "text{font:13px -apple-system,'Segoe UI','Noto Sans',Helvetica,Arial,sans-serif}\
         .title{font-weight:600}text{paint-order:stroke;stroke-width:3px}polyline{fill:none;stroke-width:2}line{stroke-width:1}\n",
    );
    let shades = [
        ("#ffffff", "#1f2328", "#59636e", "#d1d9e0"),
        ("#0d1117", "#f0f6fc", "#9198a1", "#3d444d"),
    ];
    for (dark, (ground, ink, faint, grid)) in shades.into_iter().enumerate() {
        let mut rules = format!(
            ".ground{{fill:{ground}}}text{{stroke:{ground}}}.ink,.title{{fill:{ink}}}.faint{{fill:{faint}}}.grid,.rule{{stroke:{grid}}}"
        );
        for (index, (light, night)) in COLOURS.iter().enumerate() {
            let colour = if dark == 1 { night } else { light };
            let _ =
                write!(rules, ".c{index},.t{index}{{fill:{colour}}}.l{index}{{stroke:{colour}}}");
        }
        if dark == 1 {
            rules = format!("@media(prefers-color-scheme:dark){{{rules}}}");
        }
        style += &rules;
        style.push('\n');
    }
    let title = escaped(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\" aria-label=\"{title}\">\n<style>{style}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"12\" y=\"20\">{title}</text>\n{body}</svg>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::line;

    #[test]
    fn a_plot_has_all_points_in_both_colours() {
        let mine = ours("calls", "tuning");
        let text: String = [
            line(mine.command("ADD"), "cpu", &[1000.0]),
            line(mine.command("DEL"), "cpu", &[500.0]),
            line(go("calls", "tuning").command("ADD"), "cpu", &[4000.0]),
            line(go("calls", "tuning").command("DEL"), "cpu", &[4000.0]),
            "{\"fact\":\"implementation\",\"value\":\"Go\\tv<1>\"}\n".to_owned(),
        ]
        .concat();
        let plots = all(&Record::read(&text).expect("lines"));
        let [(name, plot)] = &plots[..] else { panic!("one plot, not {}", plots.len()) };
        assert_eq!(*name, "costs.svg");
        for part in
            [">1.50<", ">8.00<", "Go &lt;1&gt;", "prefers-color-scheme:dark", "class=\"ground\""]
        {
            assert!(plot.contains(part), "{part} is not in\n{plot}");
        }
        assert!(!plot.contains("NaN") && !plot.contains("inf"), "{plot}");
    }

    #[test]
    fn a_scale_is_of_decades() {
        let scale = Scale::around([0.5, 20.0].into_iter(), 0.0, 300.0);
        assert_eq!(
            scale.decades().map(short_decade).collect::<Vec<_>>(),
            ["0.1", "1", "10", "100"]
        );
        assert!((scale.at(0.1)).abs() < 1e-9 && (scale.at(100.0) - 300.0).abs() < 1e-9);
    }
}
