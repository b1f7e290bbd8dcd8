"""The log's face to other people's software: C2SP tlog-tiles, as a folder or over HTTP."""
