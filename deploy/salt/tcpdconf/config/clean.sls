{%- from "tcpdconf/map.jinja" import file with context %}

tcpdconf-config-clean-file:
  file.absent:
    - name: {{ file }}
