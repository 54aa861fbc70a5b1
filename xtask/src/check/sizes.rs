//! Bars for the size of files and functions. Tests are not counted.

use syn::visit::{self, Visit};

use super::source::{Source, is_test_only, lines};

const FILE_MAX: usize = 700;
const FILE_P90: usize = 450;
const FUNCTION_MAX: usize = 80;
const FUNCTION_P99: usize = 60;
const FUNCTION_P90: usize = 30;
const PARAMETERS_MAX: usize = 5;

/// Every file and function over a hard bar, and every percentile over its bar.
pub(crate) fn check(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    let (mut files, mut functions) = (Vec::new(), Vec::new());
    for source in sources.iter().filter(|source| !source.is_test()) {
        let mut measure = Measure::default();
        measure.visit_file(&source.file);
        let length = source.text.lines().count() - measure.test_lines;
        let path = source.path.display();
        if length > FILE_MAX {
            findings.push(format!("{path} has {length} lines, more than {FILE_MAX}"));
        }
        files.push(length);
        for Function { name, line, length, parameters } in measure.functions {
            if length > FUNCTION_MAX {
                findings.push(format!("{path}:{line} {name} has {length} lines, more than {FUNCTION_MAX}"));
            }
            if parameters > PARAMETERS_MAX {
                findings.push(format!(
                    "{path}:{line} {name} takes {parameters} parameters, more than {PARAMETERS_MAX}"
                ));
            }
            functions.push(length);
        }
    }
    files.sort_unstable();
    functions.sort_unstable();
    let bars = [
        ("file lines", &files, 90, FILE_P90),
        ("function lines", &functions, 90, FUNCTION_P90),
        ("function lines", &functions, 99, FUNCTION_P99),
    ];
    for (what, values, percent, bar) in bars {
        let value = percentile(values, percent);
        if value > bar {
            findings.push(format!("{what}: p{percent} is {value}, more than {bar}"));
        }
    }
    findings
}

/// The smallest of the sorted values that at least `percent` of them do not exceed; 0 of nothing.
pub(crate) fn percentile(values: &[usize], percent: usize) -> usize {
    let rank = (values.len() * percent).div_ceil(100);
    rank.checked_sub(1).and_then(|index| values.get(index).copied()).unwrap_or(0)
}

struct Function {
    name: String,
    line: usize,
    /// From the signature to the closing brace.
    length: usize,
    /// Without `self`.
    parameters: usize,
}

/// Walks a file, leaving out what is compiled for tests only.
#[derive(Default)]
struct Measure {
    functions: Vec<Function>,
    test_lines: usize,
}

impl Measure {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (line, _) = lines(signature);
        let (_, end) = lines(block);
        let parameters =
            signature.inputs.iter().filter(|input| matches!(input, syn::FnArg::Typed(_))).count();
        self.functions.push(Function {
            name: signature.ident.to_string(),
            line,
            length: end - line + 1,
            parameters,
        });
    }
}

impl<'ast> Visit<'ast> for Measure {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if is_test_only(&item.attrs) {
            let (first, last) = lines(item);
            self.test_lines += last - first + 1;
            return;
        }
        visit::visit_item_mod(self, item);
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test_only(&item.attrs) {
            self.function(&item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test_only(&item.attrs) {
            self.function(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}
