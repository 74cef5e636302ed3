//! A trie of tokens: all those that a text begins with, in one walk.

use super::limits::{MAX_PIECE, shown};
use crate::error::{Result, tokenizer_error};

/// A node: its place in the order of levels.
pub(super) type Node = u32;

const NONE: u32 = u32::MAX;

/// Nodes level by level, so that the children of a node lie together, in the order of their bytes.
/// Nine bytes a node.
pub(super) struct Trie {
    /// The byte that leads to a node.
    labels: Vec<u8>,
    /// The first child of each node; its last is before the first of the next node.
    children: Vec<Node>,
    /// The id of the token that ends at a node, or `NONE`.
    ids: Vec<u32>,
}

impl Trie {
    pub(super) const ROOT: Node = 0;

    /// A trie of `(text, id)`, each text once.
    pub(super) fn new(mut tokens: Vec<(&str, u32)>) -> Result<Self> {
        if let Some((text, id)) = tokens.iter().find(|(text, _)| text.len() > MAX_PIECE) {
            let text = shown(text);
            return Err(tokenizer_error(format!("token {id} ({text}) is longer than {MAX_PIECE}")));
        }
        if tokens.iter().map(|(text, _)| text.len()).sum::<usize>() >= NONE as usize {
            return Err(tokenizer_error("the vocabulary has more than 4 GB"));
        }
        tokens.sort_unstable();
        let mut trie = Self { labels: vec![0], children: Vec::new(), ids: Vec::new() };
        let mut level = vec![(0, tokens.len())];
        let mut depth = 0;
        while !level.is_empty() {
            let mut next = Vec::new();
            for (start, end) in level {
                trie.add(&tokens[start..end], start, depth, &mut next);
            }
            level = next;
            depth += 1;
        }
        trie.children.push(trie.labels.len() as u32);
        Ok(trie)
    }

    /// Adds the node of `tokens`, which share their first `depth` bytes and lie at `start` of all
    /// tokens; their ranges by the next byte go to `next`.
    fn add(
        &mut self,
        tokens: &[(&str, u32)],
        start: usize,
        depth: usize,
        next: &mut Vec<(usize, usize)>,
    ) {
        self.children.push(self.labels.len() as u32);
        let ends = tokens.first().is_some_and(|(text, _)| text.len() == depth);
        self.ids.push(if ends { tokens[0].1 } else { NONE });
        let longer = usize::from(ends);
        let byte = |token: &(&str, u32)| token.0.as_bytes()[depth];
        let mut at = start + longer;
        for group in tokens[longer..].chunk_by(|a, b| byte(a) == byte(b)) {
            self.labels.push(byte(&group[0]));
            next.push((at, at + group.len()));
            at += group.len();
        }
    }

    fn child(&self, node: Node, byte: u8) -> Option<Node> {
        let first = self.children[node as usize];
        let labels = &self.labels[first as usize..self.children[node as usize + 1] as usize];
        labels.binary_search(&byte).ok().map(|at| first + at as u32)
    }

    /// The node that `text` leads to from `node`.
    pub(super) fn walk(&self, node: Node, text: &str) -> Option<Node> {
        text.bytes().try_fold(node, |node, byte| self.child(node, byte))
    }

    /// The token that ends at a node.
    pub(super) fn id(&self, node: Node) -> Option<u32> {
        Some(self.ids[node as usize]).filter(|&id| id != NONE)
    }

    /// Length and id of each token that `text` begins with, the shortest first; the tokens are taken
    /// without the bytes that lead to `node`, and none is empty.
    pub(super) fn prefixes<'t>(
        &'t self,
        node: Node,
        text: &'t str,
    ) -> impl Iterator<Item = (usize, u32)> + 't {
        let nodes = text.bytes().scan(node, |node, byte| {
            *node = self.child(*node, byte)?;
            Some(*node)
        });
        (1..).zip(nodes).filter_map(|(length, node)| Some((length, self.id(node)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tokens_that_a_text_begins_with_are_found() {
        let tokens = vec![("b", 7), ("abc", 1), ("a", 3), ("ab\u{e9}", 0), ("", 9), ("ab", 2)];
        let trie = Trie::new(tokens.clone()).unwrap();
        let prefixes = |text| trie.prefixes(Trie::ROOT, text).collect::<Vec<_>>();
        assert_eq!(prefixes("abcd"), [(1, 3), (2, 2), (3, 1)]);
        assert_eq!(prefixes("ab\u{e9}"), [(1, 3), (2, 2), (4, 0)]);
        assert_eq!(prefixes("ca"), []);
        for (text, id) in tokens {
            assert_eq!(trie.walk(Trie::ROOT, text).and_then(|node| trie.id(node)), Some(id));
        }
        let ab = trie.walk(Trie::ROOT, "ab").unwrap();
        assert_eq!(trie.prefixes(ab, "c").collect::<Vec<_>>(), [(1, 1)]);
        assert_eq!(Trie::new(Vec::new()).unwrap().prefixes(Trie::ROOT, "a").count(), 0);
    }

    #[test]
    fn no_token_is_longer_than_a_piece() {
        let long = "a".repeat(MAX_PIECE + 1);
        assert!(Trie::new(vec![(&long[1..], 0)]).is_ok());
        assert!(Trie::new(vec![(&long, 0)]).is_err());
    }
}
