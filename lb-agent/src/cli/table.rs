//! Tables for people and for grep: one line per row, columns two spaces apart, no lines drawn, nothing wrapped or cut,
//! no trailing blanks. The same whether or not the output is a terminal.

use comfy_table::{ContentArrangement, Table, presets};

/// A header and rows of as many cells each.
pub(super) fn render<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
}

#[cfg(test)]
mod tests {
    use super::render;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks() {
        let cell = str::to_owned;
        let text = render(["A", "LONG"], [[cell("wider"), cell("x")], [cell(""), cell("y y")]]);
        assert_eq!(text, "A      LONG\nwider  x\n       y y\n");
    }

    #[test]
    fn without_rows_only_the_header_is_printed() {
        assert_eq!(render(["A", "B"], []), "A  B\n");
    }
}
