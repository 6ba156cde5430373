{{- define "sllm.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Of everything, for Kubernetes' own conventions. */}}
{{- define "sllm.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{ include "sllm.selector" . }}
{{- end -}}

{{- define "sllm.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Arguments: root, the image of a role: {name, digest}. */}}
{{- define "sllm.image" -}}
{{- $root := index . 0 -}}{{- $image := index . 1 -}}
{{- $tag := default $root.Chart.AppVersion $root.Values.image.tag -}}
{{- $base := printf "%s/%s" $root.Values.image.registry $image.name -}}
{{- if $image.digest -}}{{ $base }}@{{ $image.digest }}{{- else -}}{{ $base }}:{{ $tag }}{{- end -}}
{{- end -}}

{{- define "sllm.secret" -}}
{{- default (printf "%s-secrets" (include "sllm.fullname" .)) .Values.secrets.existingSecret -}}
{{- end -}}

{{- define "sllm.metadataUrl" -}}
{{- if .Values.metadata.url -}}
{{- .Values.metadata.url -}}
{{- else if eq .Values.metadata.kind "redis" -}}
redis://{{ include "sllm.fullname" . }}-redis:6379
{{- else -}}
{{- $full := include "sllm.fullname" . -}}
etcd://{{- range $i := until (int .Values.metadata.etcd.replicas) -}}{{- if $i }},{{ end -}}{{ $full }}-etcd-{{ $i }}.{{ $full }}-etcd:2379{{- end -}}
{{- end -}}
{{- end -}}

{{- define "sllm.artifactsClaim" -}}
{{- default (printf "%s-artifacts" (include "sllm.fullname" .)) .Values.artifacts.pvc.existingClaim -}}
{{- end -}}
