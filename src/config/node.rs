//! YAML text → a small tree that knows where each value stands.
//!
//! The parser is `granit-parser` (the one below serde-saphyr), read event by event, because a serde data
//! format stops at its first error and we report all of them. Every bound of hostile input is kept here:
//! nesting, number of values, alias expansion; the file's size is bounded by `source`.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span};

use super::sink::{Mark, Sink};

/// Deepest nesting of one document: ours need about ten levels.
const MAX_NESTING: usize = 64;
/// Most values of one file, aliases counted as what they stand for: 4 MiB of one-letter values and their
/// separators are about a million; real files of that size hold 200,000.
const MAX_VALUES: usize = 250_000;

/// One value.
#[derive(Clone, Debug)]
pub(crate) struct Node<'s> {
    pub(crate) at: Mark,
    pub(crate) kind: Kind<'s>,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind<'s> {
    Scalar(Scalar<'s>),
    List(Vec<Node<'s>>),
    Map(Vec<(Key<'s>, Node<'s>)>),
    /// Already reported: whoever reads it says nothing more.
    Bad,
}

#[derive(Clone, Debug)]
pub(crate) struct Scalar<'s> {
    pub(crate) text: Cow<'s, str>,
    /// Neither quoted nor a block: what could also be a number, a boolean or nothing.
    pub(crate) plain: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Key<'s> {
    pub(crate) text: Cow<'s, str>,
    pub(crate) at: Mark,
    /// It was no key and was reported: what it stood for is not known.
    pub(crate) dropped: bool,
}

impl<'s> Node<'s> {
    /// The value under a key of a map.
    pub(crate) fn get(&self, key: &str) -> Option<&Node<'s>> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(k, _)| k.text == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// Whether something directly in it was reported and left out.
    pub(crate) fn is_damaged(&self) -> bool {
        match &self.kind {
            Kind::Map(entries) => entries.iter().any(|(key, value)| key.dropped || matches!(value.kind, Kind::Bad)),
            _ => false,
        }
    }

    /// What people call it.
    pub(crate) fn what(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(s) if s.is_null() => "nothing",
            Kind::Scalar(s) if s.is_number() => "a number",
            Kind::Scalar(s) if s.is_bool() => "true or false",
            Kind::Scalar(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
            Kind::Bad => "an error",
        }
    }
}

impl Node<'_> {
    /// The value by the YAML 1.2 core schema, as JSON has it; `None` where something in it was reported.
    pub(crate) fn json(&self) -> Option<serde_json::Value> {
        Some(match &self.kind {
            Kind::Bad => return None,
            Kind::List(items) => items.iter().map(Node::json).collect::<Option<Vec<_>>>()?.into(),
            Kind::Map(entries) => {
                let pair = |(key, value): &(Key<'_>, Node<'_>)| {
                    (!key.dropped).then_some(())?;
                    Some((key.text.clone().into_owned(), value.json()?))
                };
                serde_json::Value::Object(entries.iter().map(pair).collect::<Option<_>>()?)
            }
            Kind::Scalar(s) if s.is_null() => serde_json::Value::Null,
            Kind::Scalar(s) if s.is_bool() => s.text.eq_ignore_ascii_case("true").into(),
            Kind::Scalar(s) if s.is_number() => s.number(),
            Kind::Scalar(s) => (&*s.text).into(),
        })
    }
}

impl Scalar<'_> {
    fn number(&self) -> serde_json::Value {
        let integer = self.text.parse::<i64>().map(serde_json::Value::from);
        let unsigned = || self.text.parse::<u64>().map(serde_json::Value::from);
        integer
            .or_else(|_| unsigned())
            .unwrap_or_else(|_| self.text.parse::<f64>().map_or_else(|_| (&*self.text).into(), Into::into))
    }

    /// YAML 1.2 core schema, section 10.3.2.
    pub(crate) fn is_null(&self) -> bool {
        self.plain && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }
    pub(crate) fn is_bool(&self) -> bool {
        self.plain && matches!(&*self.text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
    }
    /// Integers and floats of the core schema.
    pub(crate) fn is_number(&self) -> bool {
        let first = self.text.as_bytes().first();
        if !self.plain || !first.is_some_and(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.')) {
            return false;
        }
        let body = self.text.trim_start_matches(['-', '+']);
        let rest = |prefix: &str, digits: &str| {
            self.text.strip_prefix(prefix).is_some_and(|r| !r.is_empty() && r.chars().all(|c| digits.contains(c)))
        };
        matches!(body, ".inf" | ".Inf" | ".INF")
            || matches!(&*self.text, ".nan" | ".NaN" | ".NAN")
            || rest("0x", "0123456789abcdefABCDEF")
            || rest("0o", "01234567")
            || (body.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                && body.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'-' | b'+'))
                && self.text.parse::<f64>().is_ok())
    }
}

/// What is left of a document that is not YAML: enough to know that somebody may mean it.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) kind: Option<String>,
    pub(crate) name: Option<String>,
}

/// The documents of one file. What is wrong goes to the sink; a broken document does not hide the next one.
pub(crate) fn documents<'s>(text: &'s str, file: u32, sink: &mut Sink) -> (Vec<Node<'s>>, Vec<Lost>) {
    let mut builder = Builder {
        file,
        documents: Vec::new(),
        lost: Vec::new(),
        stack: Vec::new(),
        anchors: HashMap::new(),
        values: 0,
    };
    if let Some(at) = text.bytes().position(|b| b == 0) {
        sink.report("E0004", Mark::at_byte(file, text, at), "a NUL byte: this is not a text file");
        builder.lost.push(Lost { kind: None, name: None });
        return (builder.documents, builder.lost);
    }
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_unresolved_aliases: true,
        emit_comments: false,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    loop {
        let failed = match parser.next_event() {
            None => break,
            Some(Ok((event, span))) => builder.event(event, span, sink).is_err(),
            Some(Err(error)) => {
                let mark = *error.marker();
                let at = Mark::new(file, mark.line(), mark.col(), 1);
                match error.kind() {
                    ErrorKind::RecursionLimitExceeded => too_deep(at, sink),
                    _ => {
                        let help = hint(text, mark.line(), &error.info());
                        sink.report("E0101", at, format!("this is not YAML: {}", error.info())).help(help);
                    }
                }
                true
            }
        };
        if failed {
            builder.abandon();
            if builder.values > MAX_VALUES || !matches!(parser.proceed_next_document(), Ok(true)) {
                break;
            }
        }
    }
    (builder.documents, builder.lost)
}

fn too_deep(at: Mark, sink: &mut Sink) {
    sink.report("E0108", at, format!("nested deeper than {MAX_NESTING} levels"));
}

/// What is usually behind an error of syntax, by the lines about it: parsers see it only later.
fn hint(text: &str, line: usize, said: &str) -> &'static str {
    let first = line.saturating_sub(3);
    let lines = || text.split('\n').flat_map(|l| l.strip_suffix('\r').unwrap_or(l).split('\r'));
    let near: Vec<&str> = lines().skip(first).take(line.saturating_sub(first) + 1).collect();
    let here = lines().nth(line.saturating_sub(1)).unwrap_or_default();
    let indented_by = |c: char| near.iter().any(|l| l[..l.len() - l.trim_start().len()].contains(c));
    let spaces = |l: &str| l.contains(|c: char| c != ' ' && c != '\t' && c.is_whitespace() || c == '\u{200b}');
    let content = here.split(" #").next().unwrap_or_default().trim();
    if here.contains(|c: char| c.is_control() && c != '\t') {
        "a control character has no place in a text file: delete it"
    } else if indented_by('\t') {
        "indent with spaces: a tab is no indentation in YAML"
    } else if near.iter().any(|l| spaces(l)) {
        "a space here is not the one of the keyboard (U+0020): type it anew"
    } else if content.contains('\u{ff1a}') {
        "the colon is not the one of the keyboard (U+003A): type it anew"
    } else if said.contains("BOM") {
        "an invisible byte order mark stands here: delete it"
    } else if here.starts_with("----") {
        "documents are separated by exactly `---`"
    } else if said.contains("flow") || said.contains("bracket") {
        "a `{` or `[` is not closed, or a comma is missing or one too many"
    } else if said.contains("unexpected character") || said.contains("anchor or alias") {
        "text that begins like this stands in quotes"
    } else if said.contains("quoted") {
        "a quote is not closed"
    } else if content.starts_with("<<<<<<<") || content.starts_with("=======") || content.starts_with(">>>>>>>") {
        "a merge conflict is not resolved"
    } else if said.contains("mapping values") && content.matches(": ").count() > 1 && !content.contains('{') {
        "a value with `: ` in it stands in quotes"
    } else if said.contains("':'") {
        "a key is `name: value`, with a colon and a space"
    } else if said.contains("directive") {
        "leave the line with `%` out"
    } else {
        "keys of one map begin in the same column; one of the lines here is indented more or less than its neighbours"
    }
}

/// A bound was passed: the rest of the document is not read.
struct Stop;

struct Builder<'s> {
    file: u32,
    documents: Vec<Node<'s>>,
    lost: Vec<Lost>,
    stack: Vec<Open<'s>>,
    /// Anchored values that are complete, with their sizes.
    anchors: HashMap<usize, (Node<'s>, usize)>,
    values: usize,
}

/// A list or map whose end was not seen yet.
struct Open<'s> {
    at: Mark,
    anchor: usize,
    values_before: usize,
    bad: bool,
    items: Items<'s>,
}

enum Items<'s> {
    List(Vec<Node<'s>>),
    Map(Vec<(Key<'s>, Node<'s>)>, Option<Key<'s>>),
}

type Tag<'s> = Option<Cow<'s, granit_parser::Tag>>;

impl<'s> Builder<'s> {
    fn event(&mut self, event: Event<'s>, span: Span, sink: &mut Sink) -> Result<(), Stop> {
        let at = self.mark(&span);
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = Scalar { text, plain: style == ScalarStyle::Plain };
                let bad = !allowed_tag(&tag, at, sink) || !self.means_one_thing(&scalar, at, sink);
                let kind = if bad { Kind::Bad } else { Kind::Scalar(scalar) };
                self.count(1, at, sink)?;
                let node = Node { at, kind };
                if anchor != 0 {
                    self.anchors.insert(anchor, (node.clone(), 1));
                }
                self.push(node, sink);
            }
            Event::SequenceStart(_, anchor, tag) => self.open(Items::List(Vec::new()), anchor, &tag, at, sink)?,
            Event::MappingStart(_, anchor, tag) => self.open(Items::Map(Vec::new(), None), anchor, &tag, at, sink)?,
            Event::SequenceEnd | Event::MappingEnd => self.close(sink),
            Event::Alias(id) => match self.anchors.get(&id) {
                Some((node, size)) => {
                    let (node, size) = (node.clone(), *size);
                    self.count(size, at, sink)?;
                    self.push(node, sink);
                }
                None => {
                    sink.report("E0107", at, "this alias stands inside the value that it names");
                    self.push(Node { at, kind: Kind::Bad }, sink);
                }
            },
            Event::UnresolvedAlias(name) => {
                sink.report("E0107", at, format!("no anchor `&{name}` stands before this alias in its document"));
                self.push(Node { at, kind: Kind::Bad }, sink);
            }
            _ => {}
        }
        Ok(())
    }

    fn mark(&self, span: &Span) -> Mark {
        Mark::new(self.file, span.start.line(), span.start.col(), span.len())
    }

    fn count(&mut self, values: usize, at: Mark, sink: &mut Sink) -> Result<(), Stop> {
        self.values += values;
        if self.values <= MAX_VALUES {
            return Ok(());
        }
        let help = "split the file; aliases count as what they stand for";
        sink.report("E0109", at, format!("more than {MAX_VALUES} values in one file")).help(help);
        Err(Stop)
    }

    fn open(&mut self, items: Items<'s>, anchor: usize, tag: &Tag<'s>, at: Mark, sink: &mut Sink) -> Result<(), Stop> {
        self.count(1, at, sink)?;
        if self.stack.len() >= MAX_NESTING {
            too_deep(at, sink);
            return Err(Stop);
        }
        let bad = !allowed_tag(tag, at, sink);
        self.stack.push(Open { at, anchor, values_before: self.values - 1, bad, items });
        Ok(())
    }

    fn close(&mut self, sink: &mut Sink) {
        let Some(open) = self.stack.pop() else { return };
        let kind = match open.items {
            _ if open.bad => Kind::Bad,
            Items::List(items) => Kind::List(items),
            Items::Map(entries, _) => Kind::Map(unique(entries, sink)),
        };
        let node = Node { at: open.at, kind };
        if open.anchor != 0 {
            self.anchors.insert(open.anchor, (node.clone(), self.values - open.values_before));
        }
        self.push(node, sink);
    }

    /// Puts a complete value where it belongs: into the innermost open list or map, or as a document.
    fn push(&mut self, node: Node<'s>, sink: &mut Sink) {
        match self.stack.last_mut().map(|open| &mut open.items) {
            None => self.documents.push(node),
            Some(Items::List(items)) => items.push(node),
            Some(Items::Map(entries, waiting)) => match waiting.take() {
                None => *waiting = Some(key(node, sink)),
                Some(key) if key.dropped => entries.push((key, Node { at: node.at, kind: Kind::Bad })),
                Some(key) => entries.push((key, node)),
            },
        }
    }

    /// Whether a plain scalar means the same to every YAML parser; reports it when not.
    fn means_one_thing(&self, scalar: &Scalar<'s>, at: Mark, sink: &mut Sink) -> bool {
        if !scalar.plain {
            return true;
        }
        let text = &*scalar.text;
        let is_key = matches!(self.stack.last().map(|o| &o.items), Some(Items::Map(_, None)));
        if is_yaml_1_1_bool(text, is_key) {
            let truth = matches!(text.as_bytes()[0], b'y' | b'Y') || text.eq_ignore_ascii_case("on");
            let help = format!("write `{truth}` for the boolean, or `\"{text}\"` for the text");
            sink.report("E0103", at, format!("`{text}` is a boolean to some YAML parsers and text to others"))
                .help(help);
            return false;
        }
        if has_leading_zero(text) {
            let help = format!("write the number without leading zeros, or `\"{text}\"` for the text");
            sink.report("E0104", at, format!("`{text}` is octal to some YAML parsers and decimal to others"))
                .help(help);
            return false;
        }
        true
    }

    /// Forgets an unfinished document, but for what it says it is.
    fn abandon(&mut self) {
        let bottom = self.stack.drain(..).next();
        self.anchors.clear();
        let node = match bottom {
            Some(Open { at, items: Items::Map(entries, _), .. }) => Node { at, kind: Kind::Map(entries) },
            _ => Node { at: Mark::default(), kind: Kind::Bad },
        };
        let text = |node: Option<&Node<'_>>| match node.map(|n| &n.kind) {
            Some(Kind::Scalar(s)) => Some(s.text.clone().into_owned()),
            _ => None,
        };
        let name = node.get("metadata").and_then(|m| m.get("name"));
        self.lost.push(Lost { kind: text(node.get("kind")), name: text(name) });
    }
}

/// Booleans of YAML 1.1 that YAML 1.2 takes for text. A single letter is a common key (`x`, `y`): allowed there.
fn is_yaml_1_1_bool(text: &str, is_key: bool) -> bool {
    match text.len() {
        1 => !is_key && matches!(text, "y" | "Y" | "n" | "N"),
        2 => matches!(text, "no" | "No" | "NO" | "on" | "On" | "ON"),
        3 => matches!(text, "yes" | "Yes" | "YES" | "off" | "Off" | "OFF"),
        _ => false,
    }
}

/// `0755`, `08`, `-01`: digits after a zero.
fn has_leading_zero(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

fn allowed_tag(tag: &Tag<'_>, at: Mark, sink: &mut Sink) -> bool {
    let Some(tag) = tag else { return true };
    let help = "leave the tag out: the field decides what a value is";
    sink.report("E0106", at, format!("the tag `{}` is not used here", tag.original())).help(help);
    false
}

/// A key; reports it when it is not text.
fn key<'s>(node: Node<'s>, sink: &mut Sink) -> Key<'s> {
    let dropped = Key { text: Cow::Borrowed(""), at: node.at, dropped: true };
    match node.kind {
        Kind::Scalar(s) if s.plain && s.text == "<<" => {
            let help = "share what is alike with `defaults` or a template (`from:`); a whole value can be an alias";
            sink.report("E0105", node.at, "the merge key `<<` is not used here").help(help);
            dropped
        }
        Kind::Scalar(s) if !s.is_null() => Key { text: s.text, at: node.at, dropped: false },
        Kind::Bad => dropped,
        _ => {
            let what = node.what();
            sink.report("E0110", node.at, format!("a key must be text, not {what}"));
            dropped
        }
    }
}

/// The entries of a map without second entries of a key, which are reported with the first one's place.
fn unique<'s>(mut entries: Vec<(Key<'s>, Node<'s>)>, sink: &mut Sink) -> Vec<(Key<'s>, Node<'s>)> {
    let mut duplicates: Vec<(usize, Mark)> = Vec::new();
    if entries.len() <= 16 {
        for i in 1..entries.len() {
            if !entries[i].0.dropped
                && let Some((first, _)) = entries[..i].iter().find(|(k, _)| k.text == entries[i].0.text && !k.dropped)
            {
                duplicates.push((i, first.at));
            }
        }
    } else {
        let mut seen: HashMap<&str, Mark> = HashMap::with_capacity(entries.len());
        for (i, (key, _)) in entries.iter().enumerate().filter(|(_, (key, _))| !key.dropped) {
            match seen.get(&*key.text) {
                Some(first) => duplicates.push((i, *first)),
                None => drop(seen.insert(&key.text, key.at)),
            }
        }
    }
    for (i, first) in duplicates.into_iter().rev() {
        let (key, _) = entries.remove(i);
        sink.report("E0102", key.at, format!("the key `{}` stands here twice", key.text)).also(first, "first here");
    }
    entries
}
