//! Kernel parameters under `/proc/sys`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;

use super::shell::word;

/// One parameter, named by its path so that dots in interface names mean themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    path: PathBuf,
}

/// A parameter that was opened for writing and can be set without a further permission check.
#[derive(Debug)]
pub struct WritableSysctl {
    file: File,
}

impl Sysctl {
    /// `net/ipv4/conf/<interface>/<name>`. Interface names are the kernel's own, which hold no `/`.
    #[must_use]
    pub fn ipv4_conf(interface: &str, name: &str) -> Self {
        Self { path: ["/proc/sys/net/ipv4/conf", interface, name].iter().collect() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The value without its trailing newline.
    pub fn read(&self) -> io::Result<String> {
        Ok(fs::read_to_string(&self.path)?.trim_end().to_owned())
    }

    /// The line for a shell that gives it a value.
    #[must_use]
    pub fn line(&self, value: &str) -> String {
        let path = self.path.strip_prefix("/proc/sys").unwrap_or(&self.path);
        line(&path.display().to_string(), value)
    }

    /// Opens the parameter for writing, to find out early whether that is allowed.
    pub fn open(&self) -> io::Result<WritableSysctl> {
        Ok(WritableSysctl { file: OpenOptions::new().write(true).open(&self.path)? })
    }
}

/// The line for a shell that gives a parameter below `/proc/sys` a value. With slashes a name may
/// hold dots.
#[must_use]
pub fn line(path: &str, value: &str) -> String {
    format!("sysctl -w {}", word(&format!("{path}={value}")))
}

impl WritableSysctl {
    /// Writes the value.
    pub fn write(&mut self, value: &str) -> io::Result<()> {
        self.file.write_all(value.as_bytes())
    }
}
