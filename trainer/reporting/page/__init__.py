"""The HTML report: charts, tables, previews and the comparison of runs."""
