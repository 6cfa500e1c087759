"""The command line. `main` declares the commands; what they do is imported when one is called, so that
`overnight status` starts without the web server and the agent."""
