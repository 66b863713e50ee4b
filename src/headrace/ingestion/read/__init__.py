"""Files, globs, URLs -> blocks of whole records, whatever packs them."""
