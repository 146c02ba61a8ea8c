include:
  - tcpdconf.config.file
