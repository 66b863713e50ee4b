"""Plain columns <-> the bytes of Arrow IPC files: writer and reader, without pyarrow."""
