"""report.html: the report as one file that a person reads, drawn from report.json's numbers and the bundle's spikes."""
