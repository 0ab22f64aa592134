//! Our nftables table, by the nft program: it is given JSON, one transaction a run, and asked for JSON. What it lists is
//! compared in a canonical form, for nft writes some things otherwise than it reads them.

use super::KernelError;
use crate::plan::nft::Table;
use ipnet::IpNet;
use nftables::schema::Nftables;
use serde_json::{Value, json};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Where distributions put it. Never looked for in PATH, which is somebody else's.
const PROGRAMS: [&str; 4] = ["/usr/sbin/nft", "/sbin/nft", "/usr/bin/nft", "/usr/local/sbin/nft"];
/// A run takes milliseconds; this ends one that hangs.
const DEADLINE: Duration = Duration::from_secs(5);
/// What nft says of a table that is not there.
const ABSENT: &str = "No such file or directory";

/// This much of what nft says goes into an error; it quotes whole rules.
const SAID: usize = 600;

/// Our table as the last look left it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// It as nft text; empty when there is none.
    pub policy: Arc<str>,
    /// The last look found it, or left it, as it shall be. Not so when there shall be none.
    pub in_force: bool,
    /// How often we have made, replaced or deleted it.
    pub generation: u32,
    /// When it was last seen to be as it shall be.
    pub verified: Option<SystemTime>,
}

impl Firewall {
    pub(super) fn is_as_it_shall_be(&mut self, table: &Table) {
        let policy = table.to_string();
        if *self.policy != *policy {
            self.policy = policy.into();
        }
        (self.in_force, self.verified) = (true, Some(SystemTime::now()));
    }
}

/// A table as nft lists it, in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing(Value);

impl Listing {
    /// Whether this can be the same table in another nft's words: the same chains, in each as many rules with the same
    /// comments and verdicts in the same order. What somebody else put in or took out right after us is no other wording.
    pub(super) fn resembles(&self, other: &Self) -> bool {
        let outline =
            |listing: &Self| listing.0.as_array().map(|objects| objects.iter().map(outline).collect::<Vec<_>>());
        outline(self) == outline(other)
    }
}

fn outline(object: &Value) -> Value {
    let Some((kind, of)) = object.as_object().and_then(|object| object.iter().next()) else { return Value::Null };
    let fields = ["name", "chain", "type", "hook", "prio", "policy", "comment"].map(|field| of.get(field));
    let last = of.get("expr").and_then(Value::as_array).and_then(|statements| statements.last());
    let verdict = last.and_then(Value::as_object).and_then(|statement| statement.keys().next());
    json!([kind, fields, verdict])
}

/// The table of this name, if there is one.
pub(super) async fn observe(name: &str) -> Result<Option<Listing>, KernelError> {
    let output = run(&["-j", "list", "table", "inet", name], Vec::new()).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        let listed: Value = serde_json::from_slice(&output.stdout).map_err(|error| KernelError::Nft {
            what: "list our table",
            said: format!("{error} in what it printed"),
        })?;
        Ok(Some(Listing(canonical(&listed))))
    } else if stderr.contains(ABSENT) {
        Ok(None)
    } else {
        Err(KernelError::Nft { what: "list our table", said: said(&output) })
    }
}

/// How this table is listed.
pub(super) fn expected(table: &Table) -> Listing {
    // Plain values of the crate's own types: they can be written.
    Listing(canonical(&json!({ "nftables": serde_json::to_value(table.objects()).unwrap_or_default() })))
}

/// Replaces the table, or makes it.
pub(super) async fn apply(table: &Table) -> Result<(), KernelError> {
    transact("replace our table", &table.replace()).await
}

/// Deletes the table; absent is fine.
pub(super) async fn clear(name: &'static str) -> Result<(), KernelError> {
    transact("delete our table", &Table::remove(name)).await
}

async fn transact(what: &'static str, transaction: &Nftables<'_>) -> Result<(), KernelError> {
    let text = serde_json::to_vec(transaction)
        .map_err(|error| KernelError::Nft { what, said: format!("{error} in what it was to be told") })?;
    let output = run(&["-j", "-f", "-"], text).await?;
    if output.status.success() {
        return Ok(());
    }
    Err(KernelError::Nft { what, said: said(&output) })
}

/// What it complains of, in one line; how it ended when it says nothing.
fn said(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() { output.status.to_string() } else { lines.join("; ").chars().take(SAID).collect() }
}

async fn run(arguments: &[&str], input: Vec<u8>) -> Result<Output, KernelError> {
    let program = PROGRAMS.iter().find(|program| Path::new(program).exists()).ok_or(KernelError::NoNft)?;
    let run = async {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        let write = async move {
            let written = stdin.write_all(&input).await;
            // It reads to the end.
            drop(stdin);
            written
        };
        let (written, output) = tokio::join!(write, child.wait_with_output());
        let output = output?;
        // One that ended early says why on stderr.
        if output.status.success() { written.map(|()| output) } else { Ok(output) }
    };
    tokio::time::timeout(DEADLINE, run)
        .await
        .map_err(|_| KernelError::NftHangs { program: (*program).to_owned(), limit: DEADLINE })?
        .map_err(|source| KernelError::RunNft { program: (*program).to_owned(), source })
}

/// A listing without what differs between what is told and what is listed: handles, the version, the order and the grouping of
/// addresses in a set.
fn canonical(listing: &Value) -> Value {
    let objects = listing.get("nftables").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    objects.iter().filter(|object| object.get("metainfo").is_none()).map(simple).collect()
}

fn simple(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(simple).collect(),
        Value::Object(fields) => {
            if let Some(Value::Array(items)) = fields.get("set") {
                return json!({ "set": elements(items) });
            }
            fields.iter().filter(|(key, _)| *key != "handle").map(|(key, value)| (key.clone(), simple(value))).collect()
        }
        other => other.clone(),
    }
}

/// The elements of a set in a fixed order; addresses and prefixes as ranges that do not touch.
fn elements(items: &[Value]) -> Value {
    let ranges: Option<Vec<(u128, u128)>> = items.iter().map(range).collect();
    let Some(mut ranges) = ranges else {
        let mut items: Vec<Value> = items.iter().map(simple).collect();
        items.sort_by_key(Value::to_string);
        return items.into();
    };
    ranges.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged.into_iter().map(|(first, last)| format!("{first:x}-{last:x}")).collect()
}

fn range(item: &Value) -> Option<(u128, u128)> {
    let address = |value: &Value| value.as_str()?.parse::<IpAddr>().ok();
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => address.into(),
    };
    if let Some(prefix) = item.get("prefix") {
        let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
        let net = IpNet::new(address(prefix.get("addr")?)?, length).ok()?;
        return Some((number(net.network()), number(last_of(net))));
    }
    if let Some(Value::Array(ends)) = item.get("range") {
        return Some((number(address(ends.first()?)?), number(address(ends.get(1)?)?)));
    }
    let one = number(address(item)?);
    Some((one, one))
}

fn last_of(net: IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) | u32::from(net.hostmask())).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) | u128::from(net.hostmask())).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;

    #[test]
    fn another_wording_is_the_same_table_and_one_rule_more_or_less_is_not() {
        let ours = expected(&crate::plan::emergency());
        let changed = |change: fn(&mut Vec<Value>)| {
            let mut listing = ours.clone();
            change(listing.0.as_array_mut().unwrap());
            listing
        };
        let words = changed(|objects| objects[6]["rule"]["expr"][0] = json!({ "match": "in other words" }));
        assert_ne!(words, ours);
        assert!(words.resembles(&ours));
        for other in [
            changed(|objects| drop(objects.pop())),
            changed(|objects| objects.push(objects[9].clone())),
            changed(|objects| objects.swap(6, 8)),
            changed(|objects| objects[1]["chain"]["policy"] = "accept".into()),
            changed(|objects| *objects[9]["rule"]["expr"].as_array_mut().unwrap() = vec![json!({ "accept": null })]),
            changed(|objects| objects.push(json!({ "chain": { "name": "theirs" } }))),
        ] {
            assert!(!other.resembles(&ours), "{:#}", other.0);
        }
    }

    #[test]
    fn what_nft_complains_of_is_one_line_of_some_length() {
        let output = |stderr: &str| Output {
            status: std::process::ExitStatus::from_raw(0x100),
            stdout: Vec::new(),
            stderr: stderr.as_bytes().to_vec(),
        };
        assert_eq!(said(&output("Error: syntax error\n\nlist\n^^^^\n")), "Error: syntax error; list; ^^^^");
        assert_eq!(said(&output("\n")), "exit status: 1");
        assert_eq!(said(&output(&"ü".repeat(2000))).chars().count(), SAID);
    }
}
