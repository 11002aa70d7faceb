"""The command line: options, exit statuses, errors in a line, the printed summary."""
