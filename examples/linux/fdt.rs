//! Writes a flattened device tree (Devicetree Specification 0.4, chapter 5).
//!
//! `vm-fdt` refuses names of more than 31 characters, and RTAS has some:
//! `ibm,query-interrupt-source-number`.

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const END: u32 = 9;
const MAGIC: u32 = 0xd00d_feed;
const VERSION: u32 = 17;
const COMPATIBLE: u32 = 16;
const HEADER: usize = 40;

/// A tree that is being written.
#[derive(Default)]
pub(crate) struct Fdt {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

/// A part of a tree: a node, its properties, its nodes, its end.
pub(crate) enum Token {
    Node(String),
    Property(String, Vec<u8>),
    End,
}

impl Fdt {
    /// Writes a node; `inside` writes its properties and nodes.
    pub(crate) fn node(&mut self, name: &str, inside: impl FnOnce(&mut Self)) {
        self.word(BEGIN_NODE);
        self.structure.extend(name.bytes().chain([0]));
        self.pad();
        inside(self);
        self.word(END_NODE);
    }

    /// Writes a property of the node, before its nodes.
    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) {
        let at = self.strings.len() as u32;
        self.strings.extend(name.bytes().chain([0]));
        [PROPERTY, value.len() as u32, at].into_iter().for_each(|word| self.word(word));
        self.structure.extend(value);
        self.pad();
    }

    /// Writes a property without a value.
    pub(crate) fn flag(&mut self, name: &str) {
        self.bytes(name, &[]);
    }

    /// Writes a property of cells.
    pub(crate) fn cells(&mut self, name: &str, cells: &[u32]) {
        self.bytes(name, &cells.iter().flat_map(|cell| cell.to_be_bytes()).collect::<Vec<_>>());
    }

    /// Writes a property of one or more strings.
    pub(crate) fn strings(&mut self, name: &str, values: &[&str]) {
        let value = values.iter().flat_map(|value| value.bytes().chain([0]));
        self.bytes(name, &value.collect::<Vec<_>>());
    }

    /// Returns the tree, with a reserved range of memory, given by start and size.
    pub(crate) fn finish(mut self, reserved: &[[u64; 2]]) -> Vec<u8> {
        self.word(END);
        let reserved = reserved.iter().chain([&[0, 0]]).flatten().flat_map(|word| word.to_be_bytes());
        let reserved: Vec<u8> = reserved.collect();
        let structure = HEADER + reserved.len();
        let strings = structure + self.structure.len();
        let total = strings + self.strings.len();
        let (all, at) = (total as u32, [structure, strings, HEADER].map(|offset| offset as u32));
        let sizes = [self.strings.len() as u32, self.structure.len() as u32];
        let header = [MAGIC, all, at[0], at[1], at[2], VERSION, COMPATIBLE, 0, sizes[0], sizes[1]];
        let header = header.into_iter().flat_map(u32::to_be_bytes);
        header.chain(reserved).chain(self.structure).chain(self.strings).collect()
    }

    /// Returns the bytes written.
    pub(crate) fn tokens(&self) -> Vec<Token> {
        let text = |bytes: &[u8]| -> String {
            let text = bytes.iter().take_while(|byte| **byte != 0);
            text.map(|byte| char::from(*byte)).collect()
        };
        let mut rest = self.structure.as_slice();
        let mut tokens = Vec::new();
        while let Some(word) = take_word(&mut rest) {
            match word {
                BEGIN_NODE => {
                    let name = text(rest);
                    take(&mut rest, name.len() + 1);
                    tokens.push(Token::Node(name));
                }
                PROPERTY => {
                    let (len, name) = (take_word(&mut rest), take_word(&mut rest));
                    let name = name.and_then(|at| self.strings.get(at as usize..)).map_or_else(String::new, text);
                    let value = take(&mut rest, len.unwrap_or_default() as usize);
                    tokens.push(Token::Property(name, value.to_vec()));
                }
                _ => tokens.push(Token::End),
            }
        }
        tokens
    }

    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn pad(&mut self) {
        self.structure.resize(self.structure.len().next_multiple_of(4), 0);
    }
}

/// Writes bytes, padded to whole cells.
fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(len.next_multiple_of(4).min(rest.len()));
    *rest = after;
    &taken[..len.min(taken.len())]
}

fn take_word(rest: &mut &[u8]) -> Option<u32> {
    let (word, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(u32::from_be_bytes(*word))
}

/// Returns the cells of 64-bit numbers.
pub(crate) fn halves<const N: usize>(values: [u64; N]) -> Vec<u32> {
    values.into_iter().flat_map(|value| [(value >> 32) as u32, value as u32]).collect()
}
