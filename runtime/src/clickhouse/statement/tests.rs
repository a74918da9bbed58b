use super::*;

fn parameters(pairs: &[(&str, &str)]) -> Parameters {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn substituted(text: &str, pairs: &[(&str, &str)]) -> Result<String, u32> {
    substitute(text.as_bytes(), &parameters(pairs))
        .map(|bytes| String::from_utf8(bytes).unwrap())
        .map_err(|refusal| refusal.code)
}

#[test]
fn values_become_inert_literals() {
    let check = |text, value, expected: &str| {
        assert_eq!(substituted(text, &[("p", value)]).unwrap(), expected);
    };
    check("SELECT {p:UInt64}", "5", "SELECT _CAST('5', 'UInt64')");
    check("{ p : String }", "a' OR '1'='1", r"_CAST('a\' OR \'1\'=\'1', 'String')");
    // One escaped backslash of the TSV form, then a quote.
    check("{p:String}", r"\\'", r"_CAST('\\\'', 'String')");
    check("{p:Nullable(String)}", r"\N", "_CAST(NULL, 'Nullable(String)')");
    check("{p:String}", r"\N", "_CAST('N', 'String')");
    check(
        "{p:LowCardinality(Nullable(String))}",
        r"a\nb",
        "_CAST('a\nb', 'LowCardinality(Nullable(String))')",
    );
    check("{p:Array(String)}", r"['a\'b']", r"_CAST('[\'a\\\'b\']', 'Array(String)')");
    check("{p:Enum8('a' = 1)}", "a", r"_CAST('a', 'Enum8(\'a\' = 1)')");
    check("SELECT * FROM {p:Identifier}", "a`b", r"SELECT * FROM `a\`b`");
    check("'{p:String}' -- {p:String}", "x", "'{p:String}' -- {p:String}");
    check("{'a': 1}", "x", "{'a': 1}");
}

#[test]
fn a_missing_value_is_refused() {
    assert_eq!(substituted("SELECT {q:String}", &[("p", "1")]), Err(UNKNOWN_QUERY_PARAMETER));
}

fn insert(query: &str, body: &[u8]) -> Option<(String, String, Vec<u8>)> {
    match prepare(query, Bytes::copy_from_slice(body), &Parameters::new()).unwrap() {
        Statement::Plain(_) => None,
        Statement::Insert { sql, format, data } => {
            Some((String::from_utf8(sql).unwrap(), format, data.to_vec()))
        }
    }
}

#[test]
fn data_is_split_off_and_untouched() {
    let expect =
        |sql: &str, data: &[u8]| Some((sql.to_owned(), "RowBinary".to_owned(), data.to_vec()));
    assert_eq!(
        insert("INSERT INTO t (a, `FORMAT x`) FORMAT RowBinary", b"\n\r;'\0"),
        expect("INSERT INTO t (a, `FORMAT x`) ", b"\n\r;'\0")
    );
    assert_eq!(
        insert("", b"insert into t format RowBinary\n\n\0"),
        expect("insert into t ", b"\n\0")
    );
    assert_eq!(
        insert("INSERT INTO t(format) SETTINGS a = 'FORMAT z' FORMAT RowBinary ", b"x"),
        expect("INSERT INTO t(format) SETTINGS a = 'FORMAT z' ", b"x")
    );
    assert_eq!(insert("INSERT INTO t VALUES", b"(';')"), None);
    assert_eq!(insert("INSERT INTO t SELECT 1 FORMAT RowBinary", b""), None);
    assert_eq!(insert("SELECT 1 FORMAT RowBinary", b""), None);
}

#[test]
fn settings_after_the_format_are_refused() {
    let refused =
        prepare("INSERT INTO t FORMAT RowBinary SETTINGS a = 1", Bytes::new(), &Parameters::new());
    assert_eq!(refused.unwrap_err().code, SYNTAX_ERROR);
}

#[test]
fn one_statement_per_request() {
    let code = |sql: &str| {
        prepare(sql, Bytes::new(), &Parameters::new()).err().map(|refusal| refusal.code)
    };
    assert_eq!(code("SELECT 1; -- end"), None);
    assert_eq!(code("SELECT ';'"), None);
    assert_eq!(code("SELECT 1; DROP TABLE t"), Some(SYNTAX_ERROR));
}

#[test]
fn scripts_are_split_at_semicolons() {
    assert_eq!(split("a;\n-- c; d\n b ';' ;; /* x */ ;"), ["a", "-- c; d\n b ';'"]);
    assert_eq!(split("-- nothing\n"), Vec::<&str>::new());
    assert_eq!(split("a;\x0b; b\x0b"), ["a", "b"]);
}

#[test]
fn what_reads_and_what_changes_the_connection() {
    assert!(only_reads(b" /* x */ (select 1)"));
    assert!(!only_reads(b"insert into t select 1"));
    assert!(changes_session(b"SET max_threads = 1"));
    assert!(changes_session(b"CREATE TEMPORARY TABLE t (a UInt8)"));
    assert!(!changes_session(b"SELECT 'set'"));
}
