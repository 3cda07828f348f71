"""One file per source, named by its scheme; each defines `read` (see `documents.Source`)."""
