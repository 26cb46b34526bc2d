use super::*;

fn flags(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

fn errors(text: &str) -> Vec<(Option<usize>, String)> {
    parse("vm-001", &flags(text)).expect_err("is refused").into_iter().map(|e| (e.index, e.message)).collect()
}

#[test]
fn the_seed_scenarios_flags_are_understood() {
    let (config, notices) = parse(
        "vm-001",
        &flags(
            "--run-router --run-service-proxy --run-firewall=false --enable-overlay=false \
             --enable-pod-egress=false --advertise-pod-cidr=false --advertise-cluster-ip --advertise-external-ip \
             --advertise-loadbalancer-ip --peer-router-ips=192.168.1.201,192.168.1.202 \
             --peer-router-asns=65002,65002 --cluster-asn=65001 --service-external-ip-range=10.0.0.0/24",
        ),
    )
    .expect("valid");
    assert_eq!(notices, []);
    assert!(config.run_router && config.advertise_cluster_ip && !config.advertise_pod_cidr);
    assert_eq!(config.cluster_asn, Some(65001));
    assert_eq!(
        config.peers.iter().map(|p| (p.address.to_string(), p.asn, p.port)).collect::<Vec<_>>(),
        [("192.168.1.201".to_string(), 65002, 179), ("192.168.1.202".to_string(), 65002, 179)]
    );
}

#[test]
fn a_wrong_flag_is_named_with_its_place() {
    let e = errors("--run-router --advertise-cluster-ipp");
    assert_eq!(e.len(), 1);
    assert_eq!(e[0].0, Some(1));
    assert!(e[0].1.contains("--advertise-cluster-ip"), "{}", e[0].1);
    assert_eq!(errors("--run-router=maybe")[0].0, Some(0));
    assert!(errors("--bgp-holdtime=90")[0].1.contains("Go duration"));
    assert!(errors("--peer-router-asns=64000")[0].1.contains("reserved"));
    assert!(errors("false")[0].1.contains("not a flag"));
}

#[test]
fn a_feature_that_is_not_built_is_refused_and_a_default_that_differs_is_said() {
    assert!(errors("--netpol-default-deny")[0].1.contains("not built yet"));
    let (_, notices) = parse("vm-001", &[]).expect("valid");
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0].subject, Subject::Flag("run-firewall".into()));
}

#[test]
fn the_allocator_runs_alone_and_has_its_flags() {
    let off = "--run-router=false --run-service-proxy=false --run-firewall=false --enable-overlay=false \
               --enable-pod-egress=false";
    assert!(errors(off)[0].1.contains("none of --run-router"), "{:?}", errors(off));
    let (config, _) = parse("vm-001", &flags(&format!("{off} --run-loadbalancer"))).expect("valid");
    let ours = config.load_balancer.expect("it runs");
    assert!(ours.default_class && ours.sync_period_ms == 60_000);
    assert_eq!((&*ours.identity, &*ours.lease_namespace), ("vm-001", "kube-system"));
    let more = "--run-loadbalancer --loadbalancer-default-class=false --loadbalancer-sync-period=1500ms \
                --loadbalancer-ip-range=10.1.0.0/24,fd00::/64";
    let (config, _) = parse("vm-001", &flags(&format!("{off} {more}"))).expect("valid");
    let ours = config.load_balancer.expect("it runs");
    assert!(!ours.default_class && ours.sync_period_ms == 1500);
    assert_eq!(config.load_balancer_ip_range.len(), 2);
    let (config, _) = parse("vm-001", &flags("--run-firewall=false --enable-overlay=false")).expect("valid");
    assert_eq!(config.load_balancer, None);
}

#[test]
fn lists_must_fit_each_other() {
    let e = errors("--peer-router-ips=192.168.1.201 --peer-router-asns=65002,65002");
    assert_eq!(e[0].0, None);
    assert!(e[0].1.contains("1 entries") && e[0].1.contains("has 2"), "{}", e[0].1);
}

fn run(text: &str) -> Daemon {
    match daemon(&flags(text), &[]).expect("valid") {
        Asked::Run(daemon) => *daemon,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_daemon_takes_values_as_words_and_says_what_has_no_effect() {
    let line =
        run("--run-firewall=false --enable-overlay=false --enable-pod-egress=false --peer-router-ips 192.168.1.201 \
         --peer-router-asns 65002 --hostname-override vm-001 --manifests seed -v 3 --enable-pprof");
    assert_eq!(&*line.config.node_name, "vm-001");
    assert_eq!(line.config.peers.len(), 1);
    assert_eq!((line.manifests, line.drain_s), (Some(PathBuf::from("seed")), 3));
    let about: Vec<String> = line.notices.iter().map(|n| n.subject.to_string()).collect();
    assert_eq!(about, Vec::<String>::new());
    let error = |text: &str| daemon(&flags(text), &[]).expect_err("is refused")[0].message.clone();
    assert_eq!(error("--peer-router-ips"), "--peer-router-ips needs a value");
    assert_eq!(error("--run-router false"), error("false"));
    assert_eq!(error("--peer-router=10.0.0.1"), "--peer-router is called --peer-router-ips today");
}

#[test]
fn pods_are_configured_as_for_kube_router() {
    let pods = |text: &str| {
        let config = run(text).config;
        (config.enable_cni, config.auto_mtu, config.enable_pod_egress)
    };
    assert_eq!(pods(""), (true, true, true));
    assert_eq!(pods("--enable-cni=false --auto-mtu=false --enable-pod-egress=false"), (false, false, false));
    let file = |value: Option<&str>| {
        let environment: Vec<_> = value.map(|value| (CNI_FILE.to_string(), value.to_string())).into_iter().collect();
        match daemon(&[], &environment) {
            Ok(Asked::Run(daemon)) => Ok(daemon.config.cni_file.expect("a daemon has one").to_string()),
            Ok(other) => panic!("{other:?}"),
            Err(errors) => Err(errors[0].message.clone()),
        }
    };
    assert_eq!(file(None), Ok("/etc/cni/net.d/10-kuberouter.conf".into()));
    assert_eq!(file(Some("")), file(None));
    assert_eq!(file(Some("/run/x.conflist")), Ok("/run/x.conflist".into()));
    for wrong in ["x.conf", "/run/"] {
        let said = format!("environment variable {CNI_FILE}: `{wrong}` is not the absolute path of a file");
        assert_eq!(file(Some(wrong)), Err(said));
    }
}

#[test]
fn the_api_server_and_its_patience_are_read() {
    let line = run("--master http://10.0.0.1:8080 --kubeconfig=/etc/kc --cache-sync-timeout=1500ms");
    assert_eq!((line.master.as_str(), line.kubeconfig.as_str()), ("http://10.0.0.1:8080", "/etc/kc"));
    assert_eq!(line.cache_sync_timeout, Duration::from_millis(1500));
    assert_eq!(run("").cache_sync_timeout, Duration::from_secs(60));
}

#[test]
fn help_and_version_are_found_where_pflag_finds_them() {
    let asked = |text: &str| daemon(&flags(text), &[]).expect("valid");
    assert!(matches!(asked("--run-router -h"), Asked::Help));
    assert!(matches!(asked("-V"), Asked::Version));
    // The value of another flag is no flag.
    assert!(matches!(asked("--hostname-override -h"), Asked::Run(_)));
    assert!(matches!(asked("--help=false"), Asked::Run(_)));
}

#[test]
fn every_word_form_of_the_log_level_is_read() {
    for text in ["-v3", "-v=3", "-v 3", "--v=3", "--v 3"] {
        assert_eq!(run(text).verbosity, 3, "{text}");
    }
}

#[test]
fn values_out_of_range_are_refused_with_the_range() {
    for (text, wanted) in [
        ("--bgp-port=0", "a number from 1 to 65535 is needed"),
        ("--bgp-port=0x1ffff", "a number from 1 to 65535 is needed"),
        ("--bfd-detection-multiplier=256", "a number from 1 to 255 is needed"),
        ("--cache-sync-timeout=0s", "a Go duration above 0s is needed"),
        ("--ipvs-sync-period=-1s", "a Go duration above 0s is needed"),
        ("--overlay-encap-port=80", "a number from 1024 to 65535 is needed"),
        ("--overlay-encap=vxlan", "ipip, fou"),
        ("--overlay-type=some", "subnet, full"),
        ("--service-node-port-range=32767-30000", "the lower one first"),
        ("--metrics-path=metrics", "a path that begins with /"),
        ("--runtime-endpoint=tcp://127.0.0.1:1", "unix:///"),
        ("--v=many", "a number from 0"),
    ] {
        let said = errors(text);
        assert!(said.len() == 1 && said[0].1.contains(wanted), "{text}: {said:?}");
    }
    // As Go reads numbers, and both forms of a range.
    assert_eq!(run("--bgp-port=0xb3").config.bgp_port, 179);
    run("--service-node-port-range=30000:32767 --runtime-endpoint=unix:///run/c.sock --overlay-type full");
}

#[test]
fn the_overlay_is_as_kube_router_has_it() {
    let overlay = |text: &str| {
        let config = run(text).config;
        (config.overlay.map(|overlay| (overlay.full, overlay.port)), config.overlay_port)
    };
    assert_eq!(overlay(""), (Some((false, None)), 5555));
    assert_eq!(overlay("--enable-overlay=false --overlay-encap-port 6000"), (None, 6000));
    assert_eq!(
        overlay("--overlay-type=full --overlay-encap=fou --overlay-encap-port=6000"),
        (Some((true, Some(6000))), 6000)
    );
}

#[test]
fn a_list_without_entries_is_as_good_as_none() {
    let line = run("--peer-router-ips= --peer-router-asns= --excluded-cidrs= --service-external-ip-range=");
    assert!(line.config.peers.is_empty() && line.config.excluded_cidrs.is_empty());
}

#[test]
fn mistakes_below_the_command_line_are_said_with_their_place() {
    let environment = [("FAIRWAY_BGP_PORT".to_string(), "many".to_string())];
    let said = daemon(&[], &environment).expect_err("is refused")[0].message.clone();
    assert!(said.starts_with("environment variable FAIRWAY_BGP_PORT: invalid value 'many'"), "{said}");
    let path = std::env::temp_dir().join(format!("fairway-flags-place-{}", std::process::id()));
    std::fs::write(&path, "v: 1\nrun-ruoter: true\nbgp-port: 0\n").expect("a file");
    let path = path.display().to_string();
    let said = daemon(&[format!("--config={path}")], &[]).expect_err("is refused");
    let gone = daemon(&[format!("--config={path}.not")], &[]).expect_err("is refused")[0].message.clone();
    std::fs::remove_file(&path).expect("it is there");
    let said: Vec<&str> = said.iter().map(|e| e.message.as_str()).collect();
    assert!(said[0].starts_with(&format!("{path}:3: bgp-port: invalid value '0'")), "{said:?}");
    assert!(said[1].starts_with(&format!("{path}:2: run-ruoter: ")) && said[1].contains("--run-router"), "{said:?}");
    assert_eq!(gone, format!("--config {path}.not: No such file or directory (os error 2)"));
}

/// Every flag that works says something else to the agent when its value is another. What the agent then does is
/// proved by the tests that `tests/flags.rs` names.
#[test]
fn every_flag_that_works_reaches_the_configuration() {
    let base = [
        ("bgp-graceful-restart", "true"),
        ("enable-bfd", "true"),
        ("loadbalancer-ip-range", "10.1.0.0/24"),
        ("metrics-port", "8080"),
        ("peer-router-asns", "65002"),
        ("peer-router-ips", "192.168.1.201"),
        ("run-loadbalancer", "true"),
    ];
    let read = |values: &BTreeMap<&str, &str>| {
        let flags: Vec<String> = values.iter().map(|(flag, value)| format!("--{flag}={value}")).collect();
        parse("n1", &flags).unwrap_or_else(|errors| panic!("{flags:?}: {errors:?}")).0
    };
    let base: BTreeMap<&str, &str> = base.into_iter().collect();
    let before = read(&base);
    for &(flag, syntax, default, effect) in FLAGS {
        if effect != Works {
            continue;
        }
        let file = std::env::temp_dir().join(format!("fairway-flags-{flag}-{}", std::process::id()));
        let path = file.display().to_string();
        let value = match (flag, syntax) {
            ("peer-router-passwords-file", _) => {
                std::fs::write(&file, "c2VjcmV0").expect("a file");
                path.as_str()
            }
            ("peer-router-passwords", _) => "c2VjcmV0",
            ("peer-router-ports", _) => "1790",
            ("overlay-encap", _) => "fou",
            ("overlay-encap-port", _) => "6000",
            ("overlay-type", _) => "full",
            ("gobgp-admin-address" | "health-addr" | "metrics-addr", _) => "10.0.0.1",
            (_, Syntax::Bool) if base.get(flag).copied().unwrap_or(default) == "true" => "false",
            (_, Syntax::Bool) => "true",
            (_, Syntax::Number(..)) => "7",
            (_, Syntax::ClusterAsn) => "65009",
            (_, Syntax::Asns) => "65009",
            (_, Syntax::Ips) => "192.168.1.202",
            (_, Syntax::Cidrs) => "10.2.0.0/24",
            (_, Syntax::Seconds | Syntax::Period) => "7s",
            (_, Syntax::PortRange) => "30000-30010",
            (_, Syntax::HttpPath) => "/other",
            (_, Syntax::RouterId) => "9.9.9.9",
            (other, _) => panic!("no value for --{other}"),
        };
        let mut values = base.clone();
        values.insert(flag, value);
        // The shorter of two counts.
        if flag == "routes-sync-period" {
            values.insert("injected-routes-sync-period", "1h");
        }
        let after = read(&values);
        let _none = std::fs::remove_file(&file);
        assert_ne!(after, before, "--{flag}={value} changes nothing");
    }
}

mod any {
    use proptest::prelude::*;

    use super::super::*;

    /// Words as they come from a keyboard: flags, nearly flags, values, and anything.
    fn word() -> impl Strategy<Value = String> {
        let names: Vec<&str> = FLAGS.iter().map(|row| row.0).collect();
        let name = prop::sample::select(names);
        let value = prop_oneof![
            "[0-9a-z.:/,-]{0,12}",
            Just("true".to_string()),
            Just("10.0.0.1".into()),
            Just("65001".into()),
            Just("1h".into()),
            Just("-1s".into()),
            Just("99999999999999999999".into()),
            any::<String>(),
        ];
        prop_oneof![
            4 => (name.clone(), value.clone()).prop_map(|(name, value)| format!("--{name}={value}")),
            2 => name.prop_map(|name| format!("--{name}")),
            2 => value,
            1 => "-{0,3}[a-zA-Z]{0,3}=?",
        ]
    }

    proptest! {
        // The parser of clap is built anew for each, hence not many.
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever is typed is read or refused in one sentence for each mistake.
        #[test]
        fn no_command_line_is_too_odd(
            args in prop::collection::vec(word(), 0..8),
            environment in prop::collection::vec(("FAIRWAY_[A-Z_]{0,20}", any::<String>()), 0..3),
        ) {
            // Its file would be read.
            prop_assume!(!args.iter().any(|arg| arg.contains("config")));
            match daemon(&args, &environment) {
                Ok(_) => {}
                Err(errors) => {
                    prop_assert!(!errors.is_empty());
                    for error in errors {
                        prop_assert!(!error.message.trim().is_empty());
                    }
                }
            }
        }
    }
}

#[test]
fn the_admin_port_listens_as_kube_router_has_it() {
    let admin = |text: &str| {
        let (config, _) = parse("n", &flags(text)).expect("valid");
        config.admin.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let base = "--run-firewall=false --enable-overlay=false";
    assert_eq!(admin(base), ["127.0.0.1:50051"]);
    assert_eq!(admin(&format!("{base} --gobgp-admin-port=0")), [""; 0]);
    assert_eq!(admin(&format!("{base} --gobgp-admin-address=nonsense")), ["127.0.0.1:50051"]);
    let both = ["10.0.0.1:50052", "127.0.0.1:50052"];
    assert_eq!(admin(&format!("{base} --gobgp-admin-address=10.0.0.1 --gobgp-admin-port=50052")), both);
    assert_eq!(admin(&format!("{base} --gobgp-admin-address=0.0.0.0")), ["0.0.0.0:50051"]);
}

#[test]
fn repeated_lists_add_up_and_a_repeated_switch_counts_last() {
    let (config, _) = parse(
        "n",
        &flags("--excluded-cidrs=10.1.0.0/16 --excluded-cidrs=10.2.0.0/16,10.3.0.0/16 --run-router --run-router=false"),
    )
    .expect("valid");
    assert_eq!(config.excluded_cidrs.len(), 3);
    assert!(!config.run_router);
}
