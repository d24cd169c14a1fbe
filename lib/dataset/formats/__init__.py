"""The layouts of data sets: each file recognises and reads one."""
