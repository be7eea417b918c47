"""Nothing is lost: what is promised when a process is killed, a disk fills or a bit flips, tried again and again."""
