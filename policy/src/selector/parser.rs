use std::sync::Arc;

use super::expression::Expression;
use super::lexer::{Spanned, Token, tokens};

/// A text that is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("selector {selector:?}, character {position}: expected {expected}, got {got}")]
pub struct InvalidSelector {
    /// The whole selector, cut to 120 characters.
    pub selector: String,
    /// Where it goes wrong: 1 is the first character.
    pub position: usize,
    /// What could stand there.
    pub expected: &'static str,
    /// What stands there.
    pub got: String,
}

impl InvalidSelector {
    pub(super) fn new(source: &str, at: usize, expected: &'static str) -> Self {
        let rest: String = source[at..].chars().take(12).collect();
        Self {
            selector: source.chars().take(120).collect(),
            position: source[..at].chars().count() + 1,
            expected,
            got: if rest.is_empty() {
                "the end".to_owned()
            } else {
                format!("{rest:?}")
            },
        }
    }
}

/// The deepest nesting of parentheses and negations.
const DEPTH_LIMIT: usize = 64;
/// The longest selector, in bytes. Kubernetes objects are smaller than 1.5 MiB as a whole.
const LENGTH_LIMIT: usize = 64 * 1024;

/// Parses a selector of Calico's grammar. `!` binds tightest, then `&&`, then `||`. The empty text is `all()`.
///
/// # Errors
/// [`InvalidSelector`] names the first character that doesn't fit. Nesting deeper than 64 and texts longer than
/// 64 KiB are refused.
pub fn parse(source: &str) -> Result<Expression, InvalidSelector> {
    if source.len() > LENGTH_LIMIT {
        return Err(InvalidSelector::new(source, 0, "at most 64 KiB"));
    }
    let tokens = tokens(source)?;
    if tokens.is_empty() {
        return Ok(Expression::All);
    }
    let mut parser = Parser {
        source,
        tokens: &tokens,
        next: 0,
        depth: 0,
    };
    let expression = parser.either()?;
    if parser.next < tokens.len() {
        return Err(parser.expected("`&&`, `||` or the end"));
    }
    Ok(expression)
}

struct Parser<'a> {
    source: &'a str,
    tokens: &'a [Spanned<'a>],
    next: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn either(&mut self) -> Result<Expression, InvalidSelector> {
        let mut parts = vec![self.both()?];
        while self.take(&Token::Or) {
            parts.push(self.both()?);
        }
        Ok(if parts.len() == 1 {
            parts.remove(0)
        } else {
            Expression::Or(parts.into_boxed_slice())
        })
    }

    fn both(&mut self) -> Result<Expression, InvalidSelector> {
        let mut parts = vec![self.operation()?];
        while self.take(&Token::And) {
            parts.push(self.operation()?);
        }
        Ok(Expression::all_of(parts))
    }

    fn operation(&mut self) -> Result<Expression, InvalidSelector> {
        // A run of `!` is one bit, so it needs no nesting.
        let mut negated = false;
        while self.take(&Token::Not) {
            negated = !negated;
        }
        let operation = self.term()?;
        Ok(if negated {
            Expression::Not(Box::new(operation))
        } else {
            operation
        })
    }

    fn term(&mut self) -> Result<Expression, InvalidSelector> {
        match self.peek() {
            Some(Token::All) => Ok(self.simple(Expression::All)),
            Some(Token::Global) => Ok(self.simple(Expression::Global)),
            Some(&Token::Has(key)) => Ok(self.simple(Expression::Has(key.into()))),
            Some(&Token::Label(key)) => {
                self.next += 1;
                self.comparison(key.into())
            }
            Some(Token::OpenParen) => {
                if self.depth == DEPTH_LIMIT {
                    return Err(self.expected("at most 64 nested parentheses"));
                }
                self.next += 1;
                self.depth += 1;
                let inner = self.either()?;
                self.depth -= 1;
                if self.take(&Token::CloseParen) {
                    Ok(inner)
                } else {
                    Err(self.expected("`)`"))
                }
            }
            _ => Err(self.expected("a label, `has(`, `all()`, `!` or `(`")),
        }
    }

    fn comparison(&mut self, key: Arc<str>) -> Result<Expression, InvalidSelector> {
        let operator = self.peek().cloned();
        self.next += 1;
        match operator {
            Some(Token::Equals) => Ok(Expression::Equals(key, self.text()?)),
            Some(Token::NotEquals) => Ok(Expression::NotEquals(key, self.text()?)),
            Some(Token::Contains) => Ok(Expression::Contains(key, self.text()?)),
            Some(Token::StartsWith) => Ok(Expression::StartsWith(key, self.text()?)),
            Some(Token::EndsWith) => Ok(Expression::EndsWith(key, self.text()?)),
            Some(Token::In) => Ok(Expression::In(key, self.texts()?)),
            Some(Token::NotIn) => Ok(Expression::NotIn(key, self.texts()?)),
            _ => {
                self.next -= 1;
                Err(self.expected("`==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with`"))
            }
        }
    }

    fn text(&mut self) -> Result<Arc<str>, InvalidSelector> {
        match self.peek() {
            Some(&Token::Text(text)) => {
                self.next += 1;
                Ok(text.into())
            }
            _ => Err(self.expected("a quoted text")),
        }
    }

    /// `{'a', 'b'}`; the set may be empty and may end in a comma.
    fn texts(&mut self) -> Result<Box<[Arc<str>]>, InvalidSelector> {
        if !self.take(&Token::OpenBrace) {
            return Err(self.expected("`{`"));
        }
        let mut values = Vec::new();
        while let Some(&Token::Text(text)) = self.peek() {
            self.next += 1;
            values.push(Arc::from(text));
            if !self.take(&Token::Comma) {
                break;
            }
        }
        if !self.take(&Token::CloseBrace) {
            return Err(self.expected("a quoted text, `,` or `}`"));
        }
        values.sort_unstable();
        values.dedup();
        Ok(values.into_boxed_slice())
    }

    fn simple(&mut self, expression: Expression) -> Expression {
        self.next += 1;
        expression
    }

    fn peek(&self) -> Option<&'a Token<'a>> {
        self.tokens.get(self.next).map(|spanned| &spanned.token)
    }

    fn take(&mut self, token: &Token<'_>) -> bool {
        let found = self.peek() == Some(token);
        self.next += usize::from(found);
        found
    }

    fn expected(&self, expected: &'static str) -> InvalidSelector {
        let at = self
            .tokens
            .get(self.next)
            .map_or(self.source.len(), |spanned| spanned.at);
        InvalidSelector::new(self.source, at, expected)
    }
}

#[cfg(test)]
mod tests;
