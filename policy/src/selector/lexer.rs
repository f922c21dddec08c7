use super::parser::InvalidSelector;

/// One word of a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    All,
    And,
    CloseBrace,
    CloseParen,
    Comma,
    Contains,
    EndsWith,
    Equals,
    Global,
    Has(&'a str),
    In,
    Label(&'a str),
    Not,
    NotEquals,
    NotIn,
    OpenBrace,
    OpenParen,
    Or,
    StartsWith,
    Text(&'a str),
}

/// A token and the byte where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spanned<'a> {
    pub(super) token: Token<'a>,
    pub(super) at: usize,
}

/// The longest label key, as Calico has it.
const KEY_LIMIT: usize = 512;

/// Splits `source` into tokens.
///
/// A word is an operator only after a label: `in`, `not`, `contains` and the like are label names elsewhere, and
/// an operator needs no space after it (`app in{'a'}`, `app contains'x'`), as in Calico's own lexer.
pub(super) fn tokens(source: &str) -> Result<Vec<Spanned<'_>>, InvalidSelector> {
    let mut out: Vec<Spanned<'_>> = Vec::new();
    let mut at = skip_blank(source, 0);
    while at < source.len() {
        let after_label = matches!(
            out.last(),
            Some(Spanned {
                token: Token::Label(_),
                ..
            })
        );
        let (token, next) = if after_label {
            match operator(source, at) {
                Some(found) => found,
                None => symbol(source, at)
                    .ok_or_else(|| InvalidSelector::new(source, at, "an operator after the label"))?,
            }
        } else {
            match quoted(source, at)? {
                Some(found) => found,
                None => match symbol(source, at) {
                    Some(found) => found,
                    None => word(source, at)?,
                },
            }
        };
        out.push(Spanned { token, at });
        at = skip_blank(source, next);
    }
    Ok(out)
}

/// The next position that holds no blank. Line breaks count as blanks: YAML block scalars bring them.
fn skip_blank(source: &str, at: usize) -> usize {
    let blanks = source[at..]
        .bytes()
        .take_while(|byte| b" \t\r\n".contains(byte))
        .count();
    at + blanks
}

fn symbol(source: &str, at: usize) -> Option<(Token<'_>, usize)> {
    const SYMBOLS: [(&str, Token<'static>); 10] = [
        ("&&", Token::And),
        ("||", Token::Or),
        ("==", Token::Equals),
        ("!=", Token::NotEquals),
        ("!", Token::Not),
        ("(", Token::OpenParen),
        (")", Token::CloseParen),
        ("{", Token::OpenBrace),
        ("}", Token::CloseBrace),
        (",", Token::Comma),
    ];
    SYMBOLS
        .iter()
        .find(|(text, _)| source[at..].starts_with(text))
        .map(|(text, token)| (token.clone(), at + text.len()))
}

fn operator(source: &str, at: usize) -> Option<(Token<'_>, usize)> {
    let rest = &source[at..];
    // The second word of an operator may touch the first: Calico takes `notin` and `startswith`.
    let two = |first: &str, second: &str| {
        let gap = rest
            .starts_with(first)
            .then(|| skip_blank(source, at + first.len()))?;
        source[gap..].starts_with(second).then(|| gap + second.len())
    };
    if rest.starts_with("contains") {
        return Some((Token::Contains, at + "contains".len()));
    }
    if let Some(next) = two("starts", "with") {
        return Some((Token::StartsWith, next));
    }
    if let Some(next) = two("ends", "with") {
        return Some((Token::EndsWith, next));
    }
    if let Some(next) = two("not", "in") {
        return Some((Token::NotIn, next));
    }
    rest.starts_with("in").then(|| (Token::In, at + "in".len()))
}

fn quoted(source: &str, at: usize) -> Result<Option<(Token<'_>, usize)>, InvalidSelector> {
    let Some(quote @ (b'"' | b'\'')) = source.as_bytes().get(at).copied() else {
        return Ok(None);
    };
    let start = at + 1;
    let length = source[start..]
        .bytes()
        .position(|byte| byte == quote)
        .ok_or_else(|| InvalidSelector::new(source, at, "a closing quote"))?;
    Ok(Some((
        Token::Text(&source[start..start + length]),
        start + length + 1,
    )))
}

/// A label, or `all()`, `global()`, `has(label)`. The parenthesis must touch the word.
fn word(source: &str, at: usize) -> Result<(Token<'_>, usize), InvalidSelector> {
    let closed = |from: usize| {
        let close = skip_blank(source, from);
        if source[close..].starts_with(')') {
            Ok(close + 1)
        } else {
            Err(InvalidSelector::new(source, close, "a closing parenthesis"))
        }
    };
    let rest = &source[at..];
    if rest.starts_with("all(") {
        return Ok((Token::All, closed(at + "all(".len())?));
    }
    if rest.starts_with("global(") {
        return Ok((Token::Global, closed(at + "global(".len())?));
    }
    if rest.starts_with("has(") {
        let start = skip_blank(source, at + "has(".len());
        let key = key(source, start)?;
        return Ok((Token::Has(key), closed(start + key.len())?));
    }
    let key = key(source, at)?;
    Ok((Token::Label(key), at + key.len()))
}

fn key(source: &str, at: usize) -> Result<&str, InvalidSelector> {
    let length = source[at..]
        .bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"_./-".contains(byte))
        .count();
    if length == 0 || length > KEY_LIMIT {
        return Err(InvalidSelector::new(
            source,
            at,
            "a label of 1 to 512 of [a-zA-Z0-9_./-]",
        ));
    }
    Ok(&source[at..at + length])
}
