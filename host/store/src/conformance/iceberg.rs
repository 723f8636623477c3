//! Cases about the catalog of the archive.

use super::Hosts;

const CATALOG: &str = "phronis";

pub(super) async fn tables(hosts: Hosts) {
    let create = |table: &'static str| hosts.one.create_iceberg_table(CATALOG, "ns", table, "file:///a");
    assert!(create("b").await.unwrap());
    assert!(create("a").await.unwrap());
    assert!(!create("a").await.unwrap(), "it is there");
    assert_eq!(hosts.other.iceberg_tables(CATALOG, "ns").await.unwrap(), ["a", "b"]);
    assert_eq!(hosts.other.iceberg_tables(CATALOG, "other").await.unwrap(), [""; 0]);
    assert_eq!(hosts.other.iceberg_tables("other", "ns").await.unwrap(), [""; 0]);
    assert_eq!(hosts.other.iceberg_table(CATALOG, "ns", "a").await.unwrap().as_deref(), Some("file:///a"));
    assert_eq!(hosts.other.iceberg_table(CATALOG, "ns", "c").await.unwrap(), None);
}

pub(super) async fn swaps(hosts: Hosts) {
    assert!(hosts.one.create_iceberg_table(CATALOG, "ns", "t", "file:///0").await.unwrap());
    let mut wins = 0;
    for round in 0..10 {
        let from = hosts.one.iceberg_table(CATALOG, "ns", "t").await.unwrap().unwrap();
        let (left, right) = (format!("file:///{round}-l"), format!("file:///{round}-r"));
        let (one, other) = tokio::join!(
            hosts.one.swap_iceberg_table(CATALOG, "ns", "t", &from, &left),
            hosts.other.swap_iceberg_table(CATALOG, "ns", "t", &from, &right),
        );
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_ne!(one, other, "one of two wins");
        let now = hosts.other.iceberg_table(CATALOG, "ns", "t").await.unwrap().unwrap();
        assert_eq!(now, if one { left } else { right });
        wins += 1;
    }
    assert_eq!(wins, 10);
    assert!(!hosts.one.swap_iceberg_table(CATALOG, "ns", "t", "file:///0", "file:///x").await.unwrap());
    assert!(!hosts.one.swap_iceberg_table(CATALOG, "ns", "gone", "file:///0", "file:///x").await.unwrap());
}
