//! Measures the dedupe table: misses, hits, merges, memory, bytes on disk. One argument: entries in
//! millions (5 by default). Works in a directory of its own below the current one.
//! `cargo run --release --example measure_idtable -- 5`

#![expect(clippy::disallowed_methods, reason = "it measures")]

use std::hint::black_box;
use std::time::Instant;

use varve::store::idtable::{IdTable, Location, Token};
use xorf::{BinaryFuse16, Filter};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let millions: u64 = std::env::args().nth(1).map_or(Ok(5), |argument| argument.parse())?;
    let total = millions * 1_000_000;
    let scratch = tempfile::tempdir_in(".")?;
    for runs in [1, 5, 10, 16] {
        let path = scratch.path().join(runs.to_string());
        let table = IdTable::open(&path)?;
        let mut batch = Vec::new();
        let mut adding = 0.0;
        for run in 0..runs {
            batch.extend(
                (total / runs * run..total / runs * (run + 1))
                    .map(|number| (token(number), Location { log: 1, index: number })),
            );
            let start = Instant::now();
            table.add_run(&mut batch, run)?;
            adding += start.elapsed().as_secs_f64();
        }
        drop(batch);
        println!(
            "{runs} runs, {} entries: add_run {:.1} M/s, {:.2} bytes an entry on disk, {:.2} of memory",
            table.len(),
            table.len() as f64 / adding / 1e6,
            table.disk_bytes() as f64 / table.len() as f64,
            table.memory_bytes() as f64 / table.len() as f64,
        );
        lookups(&table, total)?;
        drop(table);
        let start = Instant::now();
        let table = IdTable::open(&path)?;
        println!("  open {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        table.verify()?;
        println!("  verify {:.1} M/s", total as f64 / start.elapsed().as_secs_f64() / 1e6);
        let start = Instant::now();
        let entries = table.len();
        let mut merged = 0;
        while table.merge_once(&|_| true)? {
            merged += 1;
        }
        if merged > 0 {
            let seconds = start.elapsed().as_secs_f64();
            println!(
                "  {merged} merges of {entries} entries in {seconds:.2} s, {} runs left",
                table.run_count()
            );
        }
        std::fs::remove_dir_all(&path)?;
    }
    merge_of_four(scratch.path(), total)?;
    fuse(total)
}

fn lookups(table: &IdTable, total: u64) -> Result<(), Box<dyn std::error::Error>> {
    const PROBES: u64 = 2_000_000;
    let absent: Vec<Token> = (0..PROBES).map(|number| token((1 << 40) + number)).collect();
    let mut found = Vec::new();
    let misses = fastest(&absent, |token| table.lookup(token, &mut found))?;
    assert!(found.is_empty());
    let mut many = Vec::new();
    let batches: Vec<&[Token]> = absent.chunks(1000).collect();
    let batched = fastest(&batches, |tokens| table.lookup_many(tokens, &mut many))?;
    assert!(many.is_empty());
    println!("  misses in batches of 1,000: {batched}, for 1,000");
    let present: Vec<Token> = (0..200_000).map(|number| token(number * 7_919 % total)).collect();
    let hits = fastest(&present, |token| table.lookup(token, &mut found))?;
    assert_eq!(found.len(), 2 * present.len());
    println!("  miss {misses}; hit (page cache) {hits}");
    let start = Instant::now();
    std::thread::scope(|scope| {
        for half in absent.chunks(absent.len() / 2) {
            scope.spawn(|| {
                let mut found = Vec::new();
                half.iter().for_each(|token| drop(black_box(table.lookup(token, &mut found))));
            });
        }
    });
    println!(
        "  miss on two threads {:.0} ns each",
        start.elapsed().as_secs_f64() / (PROBES / 2) as f64 * 1e9
    );
    Ok(())
}

/// Nanoseconds a probe, of 200 slices: the machine may be shared, the fastest are undisturbed.
/// Goes over the tokens twice.
fn fastest<T, E>(tokens: &[T], mut probe: impl FnMut(&T) -> Result<(), E>) -> Result<String, E> {
    let mut slices = Vec::new();
    for slice in tokens.chunks(tokens.len().div_ceil(200)).cycle().take(400) {
        let start = Instant::now();
        slice.iter().try_for_each(&mut probe)?;
        slices.push(start.elapsed().as_secs_f64() / slice.len() as f64 * 1e9);
    }
    slices.sort_unstable_by(f64::total_cmp);
    let at = |percent: usize| slices[(slices.len() - 1) * percent / 100];
    Ok(format!("{:.0} ns (fastest tenth {:.0}, median {:.0})", at(0), at(10), at(50)))
}

fn merge_of_four(scratch: &std::path::Path, total: u64) -> Result<(), Box<dyn std::error::Error>> {
    let table = IdTable::open(&scratch.join("merge"))?;
    for part in 0..4 {
        let numbers = total / 4 * part..total / 4 * (part + 1);
        let mut batch = numbers.map(|number| (token(number), Location { log: 1, index: number })).collect();
        table.add_run(&mut batch, part)?;
    }
    let start = Instant::now();
    assert!(table.merge_once(&|_| true)?);
    println!("merge of four runs: {:.1} M entries/s", total as f64 / start.elapsed().as_secs_f64() / 1e6);
    Ok(())
}

/// The alternative: binary fuse filters of 16 bits, in shards of 65,536 keys.
fn fuse(total: u64) -> Result<(), Box<dyn std::error::Error>> {
    for runs in [1, 5, 10, 16] {
        let keys = total / runs;
        let shards = (keys / 60_000).max(1);
        let mut filters: Vec<Vec<BinaryFuse16>> = Vec::new();
        let (mut building, mut bytes) = (0.0, 0);
        for run in 0..runs {
            let mut sharded = vec![Vec::new(); usize::try_from(shards)?];
            for number in keys * run..keys * (run + 1) {
                let head = head(number);
                sharded[shard(head, shards)].push(head);
            }
            let start = Instant::now();
            let built: Result<Vec<_>, _> = sharded.iter().map(BinaryFuse16::try_from).collect();
            building += start.elapsed().as_secs_f64();
            let built = built?;
            bytes += built.iter().map(|filter| filter.fingerprints.len() * 2).sum::<usize>();
            filters.push(built);
        }
        let filters = parking_lot::RwLock::new(filters);
        let absent: Vec<u64> = (0..2_000_000).map(|number| head((1 << 40) + number)).collect();
        let mut hits = 0;
        let misses = fastest(&absent, |key| {
            hits += u64::from(filters.read().iter().any(|run| run[shard(*key, shards)].contains(key)));
            Ok::<(), std::convert::Infallible>(())
        })?;
        println!(
            "binary fuse, {runs} runs: miss {misses}, {:.2} bytes an entry, built {:.1} M/s, {hits} false in 4 M",
            bytes as f64 / total as f64,
            total as f64 / building / 1e6,
        );
    }
    Ok(())
}

#[expect(clippy::cast_possible_truncation, reason = "below the number of shards")]
fn shard(head: u64, shards: u64) -> usize {
    ((u128::from(head) * u128::from(shards)) >> 64) as usize
}

fn head(number: u64) -> u64 {
    let token = token(number);
    token[..8].iter().fold(0, |head, &byte| head << 8 | u64::from(byte))
}

fn token(number: u64) -> Token {
    let mut token = [0; 16];
    token[..8].copy_from_slice(&mix(number).to_be_bytes());
    token[8..].copy_from_slice(&mix(number ^ 0x9E37_79B9_7F4A_7C15).to_be_bytes());
    token
}

/// The finaliser of SplitMix64: a bijection that spreads numbers over 64 bits.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}
