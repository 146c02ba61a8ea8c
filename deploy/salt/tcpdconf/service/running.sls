{%- from "tcpdconf/map.jinja" import tcpdconf, command, control with context %}

include:
  - tcpdconf.package.install
  - tcpdconf.config.file

{%- if tcpdconf.service.manager == "systemd" %}

tcpdconf-service-running-unit:
  file.managed:
    - name: /etc/systemd/system/tcpdconf.service
    - source: salt://tcpdconf/files/tcpdconf.service
    - mode: '0644'

tcpdconf-service-running-paths:
  file.managed:
    - name: /etc/systemd/system/tcpdconf.service.d/10-paths.conf
    - makedirs: true
    - mode: '0644'
    - contents: |
        # Written by Salt.
        [Service]
        ExecStart=
        ExecStart={{ command }} run {{ control }} {{ tcpdconf.directory }}
        ExecReload=
        ExecReload={{ command }} reload {{ control }}

tcpdconf-service-running-daemon-reload:
  module.run:
    - service.systemctl_reload: []
    - onchanges:
      - file: tcpdconf-service-running-unit
      - file: tcpdconf-service-running-paths

tcpdconf-service-running:
  service.running:
    - name: tcpdconf
    - enable: true
    - require:
      - sls: tcpdconf.config.file
      - module: tcpdconf-service-running-daemon-reload
    - watch:
      - sls: tcpdconf.package.install
      - file: tcpdconf-service-running-unit
      - file: tcpdconf-service-running-paths
{%- endif %}

# By command, which waits and fails with the daemon's own problems. Where none runs there is none to ask.
tcpdconf-service-running-reload:
  cmd.wait:
    - name: {{ command }} reload {{ control }}
    - onlyif: {{ command }} status {{ control }}
    - watch:
      - sls: tcpdconf.config.file

# A reload that was refused left its file where it is: nothing differs at the next run, but it is not done.
tcpdconf-service-running-reload-again:
  cmd.run:
    - name: {{ command }} reload {{ control }}
    - onlyif: >-
        {{ command }} status --format=json {{ control }} | grep -Fq '"ok": false'
    - require:
      - cmd: tcpdconf-service-running-reload
