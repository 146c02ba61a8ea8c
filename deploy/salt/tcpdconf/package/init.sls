include:
  - tcpdconf.package.install
