{{/* Arguments: root, component. */}}
{{- define "sllm.peer" -}}
podSelector:
  matchLabels:
    {{- include "sllm.selector" (index . 0) | nindent 4 }}
    app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{- define "sllm.dns" -}}
- ports:
    - { port: 53, protocol: UDP }
    - { port: 53, protocol: TCP }
{{- end -}}

{{- define "sllm.toMetadata" -}}
{{- if .Values.metadata.url }}
# An external server: its address is not known here, its port is.
- ports:
    {{- range $at := splitList "," (regexReplaceAll "^[a-z]+://" .Values.metadata.url "") }}
    - { port: {{ regexFind "[0-9]+$" (regexReplaceAll "/.*$" $at "") | default (ternary "6379" "2379" (eq $.Values.metadata.kind "redis")) }}, protocol: TCP }
    {{- end }}
{{- else }}
- to:
    - {{- include "sllm.peer" (list . "metadata") | nindent 6 }}
  ports: [{ port: {{ ternary 6379 2379 (eq .Values.metadata.kind "redis") }}, protocol: TCP }]
{{- end }}
{{- end -}}

{{- define "sllm.toSources" -}}
- to: {{- toYaml .Values.networkPolicy.egress | nindent 4 }}
  ports: {{- range .Values.networkPolicy.egressPorts }}
    - { port: {{ . }}, protocol: TCP }
    {{- end }}
{{- end }}
