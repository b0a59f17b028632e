//! Why something is not there.

use toml::{Table, Value};

/// What does not work, or cannot be tried, and who makes it so.
#[derive(Debug, PartialEq)]
pub(crate) struct Hole {
    pub(crate) with: String,
    pub(crate) what: String,
    /// With a link to the line that makes it.
    pub(crate) why: String,
    /// The cells of tables that are empty for it.
    cells: Vec<Cell>,
}

/// Whatever is not named is any.
#[derive(Debug, PartialEq)]
struct Cell {
    runtime: String,
    version: Option<String>,
    backend: Option<String>,
    what: Option<String>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Holes(Vec<Hole>);

impl Holes {
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let table: Table = text.parse().map_err(|error| format!("{error}"))?;
        let holes = table.get("hole").and_then(Value::as_array).ok_or("no [[hole]]")?;
        holes.iter().map(Hole::read).collect::<Result<_, _>>().map(Self)
    }

    /// The number of the hole that an empty cell is for, from 1.
    pub(crate) fn of(
        &self,
        runtime: &str,
        version: &str,
        backend: &str,
        what: &str,
    ) -> Option<usize> {
        let is_any =
            |named: &Option<String>, value: &str| named.as_deref().is_none_or(|n| n == value);
        let is_of = |cell: &Cell| {
            cell.runtime == runtime
                && is_any(&cell.version, version)
                && is_any(&cell.backend, backend)
                && is_any(&cell.what, what)
        };
        self.0.iter().position(|hole| hole.cells.iter().any(is_of)).map(|index| index + 1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Hole> {
        self.0.iter()
    }
}

impl Hole {
    fn read(value: &Value) -> Result<Self, String> {
        let hole = Self {
            with: text(value, "with")?,
            what: text(value, "what")?,
            why: text(value, "why")?,
            cells: value
                .get("cells")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(Cell::read)
                .collect::<Result<_, _>>()?,
        };
        if hole.why.contains("](https://") {
            Ok(hole)
        } else {
            Err(format!("{}: {}: no link says why", hole.with, hole.what))
        }
    }
}

impl Cell {
    fn read(value: &Value) -> Result<Self, String> {
        let field = |name| text(value, name).ok();
        Ok(Self {
            runtime: text(value, "runtime")?,
            version: field("version"),
            backend: field("backend"),
            what: field("what"),
        })
    }
}

/// In one line, as a cell of a table has it.
fn text(value: &Value, name: &str) -> Result<String, String> {
    let text = value.get(name).and_then(Value::as_str);
    let text = text.ok_or_else(|| format!("no {name:?} in {value:?}"))?;
    Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

#[test]
fn a_hole_is_known_by_its_cells() {
    let hole =
        "[[hole]]\nwith='a'\nwhat='b'\nwhy='[c](https://d)'\ncells=[{runtime='r',version='1.6'}]\n";
    let holes = Holes::read(hole).expect("TOML");
    assert_eq!(holes.of("r", "1.6", "nftables", "x"), Some(1));
    assert_eq!(holes.of("r", "2.1", "nftables", "x"), None);
    assert!(Holes::read(&hole.replace("[c](https://d)", "nobody knows")).is_err());
}
