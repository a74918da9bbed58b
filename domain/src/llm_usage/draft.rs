//! Reading members by name, and writing classes as sums of them.

use super::{AttributeKind, Fault, Member, Term, UsageClass, UsageField, context_of, count};

/// A number of the object, and which member it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    pub member: usize,
    pub value: i64,
}

/// What has been understood so far.
pub(super) struct Draft<'a> {
    members: &'a [Member<'a>],
    pub terms: Vec<Term>,
}

/// The value of a count that may be absent.
pub(super) fn value(count: Option<Count>) -> i64 {
    count.map_or(0, |count| count.value)
}

/// The sum of counts, of which any may be absent.
pub(super) fn sum(counts: &[Option<Count>]) -> i64 {
    counts.iter().fold(0, |sum: i64, count| sum.saturating_add(value(*count)))
}

impl<'a> Draft<'a> {
    pub fn new(members: &'a [Member<'a>]) -> Draft<'a> {
        Draft { members, terms: Vec::new() }
    }

    /// The members of `usage`, with their pointers below it and their places.
    pub fn usage(&self) -> impl Iterator<Item = (usize, &'a str, &'a Member<'a>)> {
        let below = |(place, member): (usize, &'a Member<'a>)| {
            Some((place, member.pointer.strip_prefix("/usage")?, member))
        };
        self.members.iter().enumerate().filter_map(below)
    }

    /// The count under the first of these names below `usage` that is there; `null` is not there.
    pub fn count(&self, pointers: &[&str]) -> Result<Option<Count>, Fault> {
        for pointer in pointers {
            let found = self.usage().find(|(_, below, _)| below == pointer);
            let Some((member, _, found)) = found else { continue };
            if let Some(count) = read(member, found)? {
                return Ok(Some(count));
            }
        }
        Ok(None)
    }

    /// The count under a name below `usage`, which may be written as text.
    pub fn count_or_text(&self, pointer: &str) -> Result<Option<Count>, Fault> {
        let found = self.usage().find(|(_, below, _)| *below == pointer);
        let Some((place, _, member)) = found else { return Ok(None) };
        match member.kind {
            AttributeKind::Text if count(member.text).is_some() => {
                read(place, &Member { kind: AttributeKind::Number, ..*member })
            }
            _ => read(place, member),
        }
    }

    /// The same as [`Draft::count`], of a count that must be there.
    pub fn needed(&self, pointers: &[&str]) -> Result<Count, Fault> {
        self.count(pointers)?.ok_or_else(|| {
            let names: Vec<String> =
                pointers.iter().map(|pointer| format!("`usage{}`", dotted(pointer))).collect();
            Fault(format!("it has no {}, as its provider writes it", names.join(" or ")))
        })
    }

    /// The count at a pointer below `data`.
    pub fn at(&self, pointer: &str) -> Result<Option<Count>, Fault> {
        let found = self.members.iter().enumerate().find(|(_, member)| member.pointer == pointer);
        found.map_or(Ok(None), |(place, member)| read(place, member))
    }

    /// Makes a class the sum of `more` without `less`. A class of nothing is left out, but for
    /// input and output, which a call has even where they are zero.
    pub fn class(
        &mut self,
        class: UsageClass,
        more: &[Option<Count>],
        less: &[Option<Count>],
    ) -> Result<(), Fault> {
        let total = sum(more).saturating_sub(sum(less));
        if total < 0 {
            let field = UsageField::Class(class).pointer(false);
            return Err(Fault(format!(
                "`{field}` would be negative: {} less {}",
                self.shown(more),
                self.shown(less)
            )));
        }
        if total == 0 && !matches!(class, UsageClass::Input | UsageClass::Output) {
            return Ok(());
        }
        self.push(UsageField::Class(class), more, less);
        Ok(())
    }

    /// Says how long the prompt was, where that may change its price.
    pub fn context(&mut self, prompt: &[Option<Count>]) {
        if context_of(sum(prompt)).is_some() {
            self.push(UsageField::Context, prompt, &[]);
        }
    }

    /// The total that the provider gives must be what its parts come to.
    pub fn check_total(&self, total: Option<Count>, parts: i64) -> Result<(), Fault> {
        match total {
            Some(total) if total.value != parts => Err(Fault(format!(
                "its parts come to {parts} tokens, and {} says {}",
                self.shown(&[Some(total)]),
                total.value
            ))),
            _ => Ok(()),
        }
    }

    fn push(&mut self, field: UsageField, more: &[Option<Count>], less: &[Option<Count>]) {
        let counted = |counts: &[Option<Count>]| -> Vec<Count> {
            counts.iter().flatten().filter(|count| count.value > 0).copied().collect()
        };
        // Numbers of zero change nothing, but one makes that the field is there.
        let mut added = counted(more);
        if added.is_empty() {
            added.extend(more.iter().flatten().take(1));
        }
        let term = |less| move |count: Count| Term { field, less, member: count.member };
        self.terms.extend(added.into_iter().map(term(false)));
        self.terms.extend(counted(less).into_iter().map(term(true)));
    }

    /// Counts for a person: `usage.prompt_tokens` (12).
    fn shown(&self, counts: &[Option<Count>]) -> String {
        let one = |count: &Count| {
            let pointer = self.members.get(count.member).map_or("", |member| member.pointer);
            let name = dotted(pointer);
            format!("`{}` ({})", name.strip_prefix('.').unwrap_or(&name), count.value)
        };
        let counts: Vec<String> = counts.iter().flatten().map(one).collect();
        counts.join(" and ")
    }
}

fn dotted(pointer: &str) -> String {
    pointer.replace('/', ".")
}

fn read(place: usize, member: &Member<'_>) -> Result<Option<Count>, Fault> {
    let number = match member.kind {
        AttributeKind::Null => return Ok(None),
        AttributeKind::Number => count(member.text),
        _ => None,
    };
    let Some(value) = number else {
        let shown: String = String::from_utf8_lossy(member.text).chars().take(40).collect();
        let name = dotted(member.pointer);
        return Err(Fault(format!(
            "`{}` is {shown:?}, which is no count of tokens",
            name.strip_prefix('.').unwrap_or(&name)
        )));
    };
    Ok(Some(Count { member: place, value }))
}
