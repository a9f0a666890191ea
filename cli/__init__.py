"""The command line of cwr-mech. One module a command; heavy imports happen inside the commands."""
