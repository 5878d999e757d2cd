//! The layers over one another, every way to get a key wrong, and the documents that the table keeps in step.

use std::ffi::OsString;
use std::path::Path;

use super::keys::{FLAGS_ALONE, KEYS, Key, Kind, named};
use super::*;

/// Keys from nothing but these layers.
fn gathered(
    file: Option<&str>,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Settings, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("varve.toml");
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    Settings::gather(&Layers {
        file: file.map(|_| path.as_path()),
        environment: environment.iter().map(|(name, value)| (name.into(), value.into())).collect(),
        foreign: vec!["VARVE_KEY".to_owned(), "VARVE_URL".to_owned()],
        flags: flags.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))).collect(),
    })
}

fn config(
    file: Option<&str>,
    environment: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> Result<Config, ConfigError> {
    let outcome = gathered(file, environment, flags).and_then(|settings| Config::from_settings(&settings));
    // Errors name the file by its path, which is another one each time.
    outcome.map_err(|error| {
        let at = error.message.find("varve.toml").unwrap_or(0);
        ConfigError { message: error.message[at..].to_owned(), hint: error.hint }
    })
}

fn message(file: Option<&str>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
    let error = config(file, environment, flags).unwrap_err();
    assert!(!error.hint.is_empty());
    error.message
}

/// A text that the key takes and that is not its default.
fn another(key: &Key) -> String {
    match &key.kind {
        Kind::Path(_) => "/elsewhere/it".to_owned(),
        Kind::Address(_) => format!("127.0.0.1:{}", 9000 + key.name.len()),
        Kind::Switch => "true".to_owned(),
        Kind::Choice(words) => words[1].to_owned(),
        Kind::Text(_) => "debug".to_owned(),
        Kind::Number { most, .. } => most.to_string(),
    }
}

/// `name = value` as a line of TOML.
fn line(key: &Key, text: &str) -> String {
    match key.kind {
        Kind::Switch | Kind::Number { .. } => format!("{} = {text}\n", key.name),
        _ => format!("{} = \"{text}\"\n", key.name),
    }
}

#[test]
fn without_anything_every_key_has_its_default() {
    let settings = gathered(None, &[], &[]).unwrap();
    for setting in settings.iter() {
        assert_eq!(setting.origin, Origin::Default);
        assert_eq!(setting.value.is_some(), setting.key.default_text().is_some(), "{}", setting.key.name);
    }
    let config = Config::from_settings(&settings).unwrap();
    assert_eq!((config.data, config.listen), ("./varve-data".into(), ([127, 0, 0, 1], 8117).into()));
    assert_eq!((config.tls, config.metrics_listen, config.insecure), (None, None, false));
    assert_eq!((config.log_format, config.log_level.as_str()), (LogFormat::Text, "info"));
}

#[test]
fn each_key_is_taken_from_each_layer_and_the_later_layer_wins() {
    for key in &KEYS {
        let (text, variable) = (another(key), key.env());
        let file = line(key, &text);
        let (environment, flags) = ([(variable.as_str(), text.as_str())], [(key.name, text.as_str())]);
        for (outcome, origin) in [
            (gathered(Some(&file), &[], &[]), "varve.toml:1".to_owned()),
            (gathered(None, &environment, &[]), variable.clone()),
            (gathered(None, &[], &flags), format!("--{}", key.flag())),
            (gathered(Some(&file), &environment, &[]), variable.clone()),
            (gathered(Some(&file), &environment, &flags), format!("--{}", key.flag())),
        ] {
            let settings = outcome.unwrap();
            let setting = settings.iter().find(|setting| setting.key.name == key.name).unwrap();
            assert!(setting.origin.shown().ends_with(&origin), "{:?} {origin}", setting.origin);
            assert_eq!(setting.value.as_ref().unwrap().to_string().trim_matches('"'), text);
            assert_eq!(settings.iter().count(), KEYS.len());
            let mut others = settings.iter().filter(|other| other.key.name != key.name);
            assert!(others.all(|other| other.origin == Origin::Default));
        }
    }
    let both =
        gathered(Some("query_seconds = 20\n"), &[("VARVE_QUERY_SECONDS", "30")], &[("query_seconds", "40")]);
    assert_eq!(both.unwrap().number("query_seconds"), 40);
    let taken_back = config(Some("insecure = true\n"), &[], &[("insecure", "false")]).unwrap();
    assert!(!taken_back.insecure);
}

#[test]
fn bounds_are_kept_in_every_layer() {
    for key in &KEYS {
        let Kind::Number { least, most, default, unit } = key.kind else { continue };
        assert!(least <= default && default <= most, "{}", key.name);
        for (number, is_taken) in [
            (u128::from(least), true),
            (u128::from(most), true),
            (u128::from(most) + 1, false),
            (u128::from(u64::MAX) + 1, false),
            (u128::from(least).wrapping_sub(1), false),
        ] {
            if number == u128::MAX {
                continue;
            }
            let (text, variable) = (number.to_string(), key.env());
            let place = format!("varve.toml:2: {} is {number}, and takes", key.name);
            for (outcome, place) in [
                (gathered(Some(&format!("# one\n{}", line(key, &text))), &[], &[]), place),
                (gathered(None, &[(&variable, &text)], &[]), format!("{variable} is {number}, and takes")),
                (
                    gathered(None, &[], &[(key.name, &text)]),
                    format!("--{} is {number}, and takes", key.flag()),
                ),
            ] {
                match outcome {
                    Ok(settings) => assert!(is_taken && u128::from(settings.number(key.name)) == number),
                    Err(error) => {
                        assert!(!is_taken, "{}", error.message);
                        let bounds = format!("a whole number of {unit} from {least} to {most}");
                        assert!(error.message.ends_with(&format!("{place} {bounds}")), "{}", error.message);
                        assert!(error.hint.contains(&default.to_string()), "{}", error.hint);
                    }
                }
            }
        }
    }
}

#[test]
fn what_a_key_does_not_take_is_refused_and_not_repeated() {
    for (file, expected) in [
        (
            "listen = \"hunter2\"",
            "varve.toml:1: listen takes an IP address and a port, such as 127.0.0.1:8117",
        ),
        ("listen = 8117", "varve.toml:1: listen takes an IP address"),
        ("data = \"\"", "varve.toml:1: data takes a path"),
        ("must_exist = \"hunter2\"", "varve.toml:1: must_exist takes true or false"),
        ("\n\nmust_exist = 1", "varve.toml:3: must_exist takes true or false"),
        ("log_format = \"hunter2\"", "varve.toml:1: log_format takes text or json"),
        ("log_level = \"\"", "varve.toml:1: log_level takes a text"),
        (
            "query_seconds = \"hunter2\"",
            "varve.toml:1: query_seconds takes a whole number of seconds from 1 to 300",
        ),
        ("query_seconds = \"20\"", "varve.toml:1: query_seconds takes a whole number"),
        ("query_seconds = 1.5", "varve.toml:1: query_seconds takes a whole number"),
        ("query_seconds = -1", "varve.toml:1: query_seconds is -1, and takes"),
        ("query_seconds = [\"hunter2\"]", "varve.toml:1: query_seconds takes a whole number"),
        ("[query_seconds]\nhunter2 = 1", "varve.toml:1: query_seconds takes a whole number"),
        ("= hunter2", "varve.toml:1: is not TOML"),
        ("data = \"a\"\nlisten = hunter2\n", "varve.toml:2: is not TOML"),
        ("data = \"hunter2", "varve.toml:1: is not TOML"),
        ("query_seconds = 1\nquery_seconds = 2\n", "is not TOML"),
    ] {
        let found = message(Some(file), &[], &[]);
        assert!(found.contains(expected) && !found.contains("hunter2"), "{file}: {found}");
    }
    for (name, value) in [
        ("VARVE_LISTEN", "hunter2"),
        ("VARVE_QUERY_SECONDS", "hunter2"),
        ("VARVE_QUERY_SECONDS", "+20"),
        ("VARVE_QUERY_SECONDS", "999999999999999999999999999999999999999999"),
        ("VARVE_MUST_EXIST", "hunter2"),
        ("VARVE_MUST_EXIST", "1"),
    ] {
        let found = message(None, &[(name, value)], &[]);
        assert!(found.starts_with(&format!("{name} takes ")) && !found.contains(value), "{found}");
    }
    assert_eq!(message(None, &[], &[("must_exist", "hunter2")]), "--must-exist takes true or false");
    let long = "x".repeat(5000);
    assert_eq!(message(None, &[], &[("data", &long)]), "--data takes a path");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_one() {
    for (file, expected, near) in [
        (
            "max_conections = 5",
            "varve.toml:1: max_conections is no key of Varve",
            "did you mean max_connections?",
        ),
        ("max-connections = 5", "varve.toml:1: max-connections is no key", "did you mean max_connections?"),
        ("\nheartbeat = 5", "varve.toml:2: heartbeat is no key", "did you mean heartbeat_seconds?"),
        ("[http]\nmax_connections = 5", "varve.toml:1: http is no key", "lists all keys"),
        ("replication_factor = 3", "varve.toml:1: replication_factor is no key", "lists all keys"),
        ("confirm_clock = true", "confirm_clock is no key: it is for one start", "the flag --confirm-clock"),
        ("config = \"a\"", "config is no key: it is for one start", "the flag --config"),
        // The first of several, in the order of the file.
        ("zzz = 1\naaa = 2", "varve.toml:1: zzz is no key", "lists all keys"),
    ] {
        let error = config(Some(file), &[], &[]).unwrap_err();
        assert!(error.message.contains(expected) && error.hint.contains(near), "{error:?}");
    }
    let error = config(None, &[("VARVE_MAX_CONECTIONS", "hunter2")], &[]).unwrap_err();
    assert_eq!(error.message, "VARVE_MAX_CONECTIONS is no key of Varve");
    assert!(error.hint.starts_with("did you mean VARVE_MAX_CONNECTIONS?"), "{}", error.hint);
    let name = format!("{} = 1", "x".repeat(5000));
    assert!(message(Some(&name), &[], &[]).len() < 120);
}

#[test]
fn variables_of_others_are_left_alone_and_empty_ones_are_not_there() {
    let environment = [
        ("VARVE_KEY", "varve_secret"),
        ("VARVE_URL", "http://x"),
        ("VARVES", "1"),
        ("varve_data", "x"),
        ("VARVE_DATA", ""),
        ("VARVE_CONFIG", ""),
        ("VARVE_NOT_A_KEY", ""),
        // Of Kubernetes, for services named `varve` and `varve-metrics`.
        ("VARVE_SERVICE_HOST", "10.0.0.1"),
        ("VARVE_SERVICE_PORT", "8117"),
        ("VARVE_SERVICE_PORT_HTTP", "8117"),
        ("VARVE_PORT", "tcp://10.0.0.1:8117"),
        ("VARVE_PORT_8117_TCP", "tcp://10.0.0.1:8117"),
        ("VARVE_PORT_8117_TCP_ADDR", "10.0.0.1"),
        ("VARVE_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("VARVE_METRICS_PORT_9000_TCP_PROTO", "tcp"),
    ];
    let settings = gathered(None, &environment, &[]).unwrap();
    assert!(settings.iter().all(|setting| setting.origin == Origin::Default));
    // A person who means the port is told.
    assert_eq!(message(None, &[("VARVE_PORT", "8117")], &[]), "VARVE_PORT is no key of Varve");
}

#[test]
fn the_environment_names_the_file_and_a_flag_names_another() {
    let dir = tempfile::tempdir().unwrap();
    let [one, two, none] = ["one", "two", "none"].map(|name| dir.path().join(name));
    std::fs::write(&one, "query_seconds = 21\n").unwrap();
    std::fs::write(&two, "query_seconds = 22\n").unwrap();
    let gather = |variable: &Path, flag: Option<&Path>| {
        Settings::gather(&Layers {
            file: flag,
            environment: vec![(CONFIG_ENV.into(), variable.into())],
            foreign: Vec::new(),
            flags: Vec::new(),
        })
    };
    assert_eq!(gather(&one, None).unwrap().number("query_seconds"), 21);
    assert_eq!(gather(&one, Some(&two)).unwrap().number("query_seconds"), 22);
    assert_eq!(gather(&none, Some(&two)).unwrap().number("query_seconds"), 22);
    for outcome in [gather(&none, None), gather(&one, Some(&none))] {
        let message = outcome.unwrap_err().message;
        assert!(
            message.ends_with("none cannot be read: No such file or directory (os error 2)"),
            "{message}"
        );
    }
    std::fs::write(&one, vec![b'#'; 200 * 1024]).unwrap();
    assert!(gather(&one, None).unwrap_err().message.ends_with("it has over 131072 bytes"));
    std::fs::write(&one, b"data = \"\xff\"").unwrap();
    assert!(gather(&one, None).unwrap_err().message.ends_with("it is not UTF-8"));
    assert!(gather(dir.path(), None).unwrap_err().message.contains("cannot be read"));
}

#[test]
fn keys_are_held_against_one_another() {
    let open = [("listen", "0.0.0.0:8117")];
    assert!(
        message(None, &[], &open).starts_with("0.0.0.0:8117 is not a loopback address, and there is no TLS")
    );
    for file in ["insecure = true\n", "tls_certificate_file = \"c\"\ntls_private_key_file = \"k\"\n"] {
        assert_eq!(config(Some(file), &[], &open).unwrap().listen.port(), 8117);
    }
    for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1"] {
        config(None, &[], &[("listen", address)]).unwrap();
    }
    assert!(config(None, &[], &[("listen", "[::]:1")]).is_err());

    let tls =
        config(None, &[("VARVE_TLS_CERTIFICATE_FILE", "c")], &[("tls_private_key_file", "k")]).unwrap().tls;
    assert_eq!(tls, Some(TlsFiles { certificate: "c".into(), private_key: "k".into() }));
    for (given, missing) in
        [("tls_certificate_file", "tls_private_key_file"), ("tls_private_key_file", "tls_certificate_file")]
    {
        let found = message(Some(&format!("{given} = \"x\"\n")), &[], &[]);
        assert_eq!(found, format!("varve.toml:1: {given} is set, {missing} is not"));
    }

    let same = message(None, &[("VARVE_METRICS_LISTEN", "127.0.0.1:8117")], &[]);
    assert_eq!(same, "VARVE_METRICS_LISTEN is the same address as listen");
    config(None, &[], &[("listen", "127.0.0.1:0"), ("metrics_listen", "127.0.0.1:0")]).unwrap();
}

#[test]
fn what_is_printed_says_the_same_when_it_is_read() {
    let file = "data = \"a \\\"quoted\\\" one\"\nmax_connections = 4_097 # more\nlog_format = \"json\"\n";
    let settings =
        gathered(Some(file), &[("VARVE_LISTEN", "[::1]:8117")], &[("must_exist", "true")]).unwrap();
    let printed = settings.to_toml();
    assert!(
        printed.contains("max_connections = 4097  # ") && printed.contains("varve.toml:2\n"),
        "{printed}"
    );
    assert!(printed.contains("\nlisten = \"[::1]:8117\"  # VARVE_LISTEN\n"), "{printed}");
    assert!(
        printed.contains("\n# metrics_listen is not set\n")
            && printed.contains("\nquery_seconds = 10  # default\n")
    );
    let again = gathered(Some(&printed), &[], &[]).unwrap();
    for (one, other) in settings.iter().zip(again.iter()) {
        assert_eq!(one.value, other.value, "{}", one.key.name);
    }
}

#[test]
fn every_key_says_its_unit_and_what_it_is_for() {
    let units = [
        "_seconds",
        "_hours",
        "_days",
        "_months",
        "_bytes",
        "_bytes_per_second",
        "_connections",
        "_requests",
    ];
    let units = units.into_iter().chain(["_calls", "_events", "_events_per_second"]);
    for (at, key) in KEYS.iter().enumerate() {
        if let Kind::Number { unit, .. } = key.kind {
            assert!(units.clone().any(|end| key.name.ends_with(end)), "{}", key.name);
            assert!(key.name.ends_with(&unit.replace(' ', "_")), "{} counts {unit}", key.name);
        }
        assert!(
            key.about.len() > 10 && !key.about.ends_with('.') && !key.about.contains('|'),
            "{}",
            key.name
        );
        assert!(key.name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{}", key.name);
        assert!(KEYS[..at].iter().all(|before| before.name != key.name), "{} is there twice", key.name);
        assert!(!FLAGS_ALONE.contains(&key.name) && key.env() != CONFIG_ENV);
        assert!(named(key.name).is_some());
        // Groups stand together, so that the help has each heading once.
        let earlier = KEYS[..at].iter().rposition(|before| before.group == key.group);
        assert!(earlier.is_none_or(|earlier| earlier + 1 == at), "{}", key.name);
    }
}

// ---------------------------------------------------------------------------------------------------------
// Documents that say what the table says.

fn document(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The table of docs/OPERATIONS.md.
fn documented() -> String {
    let mut text = String::from("| key | takes | default | |\n|---|---|---|---|\n");
    for key in &KEYS {
        let takes = match &key.kind {
            Kind::Path(_) => "path".to_owned(),
            Kind::Address(_) => "address and port".to_owned(),
            Kind::Switch => "`true`, `false`".to_owned(),
            Kind::Choice(words) => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            Kind::Text(_) => "text".to_owned(),
            Kind::Number { unit, least, most, .. } => format!("{least} to {most} {unit}"),
        };
        let default = key.default_text().map_or("not set".to_owned(), |default| format!("`{default}`"));
        text += &format!("| `{}` | {takes} | {default} | {} |\n", key.name, key.about);
    }
    text
}

#[test]
fn the_table_of_operations_is_this_table() {
    let table = documented();
    assert!(
        document("docs/OPERATIONS.md").contains(&table),
        "docs/OPERATIONS.md lacks this table:\n\n{table}"
    );
}

#[test]
fn the_example_has_every_key_with_its_default() {
    let text = document("packaging/varve.toml");
    gathered(Some(&text), &[], &[]).unwrap();
    let mut without = text.clone();
    for key in &KEYS {
        let default = key.default_text();
        let expected = line(key, default.as_deref().unwrap_or_default());
        let expected = format!("#{}", expected.trim_end());
        let found = text.lines().find(|line| line.starts_with(&format!("#{} = ", key.name)));
        let found =
            found.unwrap_or_else(|| panic!("packaging/varve.toml lacks: # {}\n{expected}", key.about));
        assert!(default.is_none() || found == expected, "{found} should be {expected}");
        without = without.replace(&format!("{found}\n"), &format!("{}\n", &found[1..]));
    }
    // Every line that looks like a key is one, and its value is taken.
    let settings = gathered(Some(&without), &[], &[]).unwrap();
    assert!(settings.iter().all(|setting| matches!(setting.origin, Origin::File(_))));
}
