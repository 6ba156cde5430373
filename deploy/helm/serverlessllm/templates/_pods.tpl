{{/* Environment of every process of ours. */}}
{{- define "sllm.env" -}}
- name: SLLM_CONFIG
  value: /etc/serverlessllm/config.yaml
- name: SLLM_SECRET
  valueFrom: { secretKeyRef: { name: {{ include "sllm.secret" . }}, key: secret } }
- name: SLLM_METADATA_URL
  value: {{ include "sllm.metadataUrl" . | quote }}
{{- if and (not .Values.metadata.url) (eq .Values.metadata.kind "redis") }}
- name: SLLM_METADATA_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ include "sllm.secret" . }}, key: redis-password } }
{{- else if .Values.metadata.existingSecret }}
- name: SLLM_METADATA_USER
  valueFrom: { secretKeyRef: { name: {{ .Values.metadata.existingSecret }}, key: username, optional: true } }
- name: SLLM_METADATA_PASSWORD
  valueFrom: { secretKeyRef: { name: {{ .Values.metadata.existingSecret }}, key: password } }
{{- if .Values.metadata.caFromSecret }}
- name: SLLM_METADATA_CA_FILE
  value: /etc/serverlessllm-metadata/ca.crt
{{- end }}
{{- end }}
{{- end -}}

{{/* Of those that read or write artifacts in S3. */}}
{{- define "sllm.s3Env" -}}
{{- if eq .Values.artifacts.kind "s3" }}
- name: AWS_REGION
  value: {{ .Values.artifacts.s3.region | quote }}
{{- with .Values.artifacts.s3.endpoint }}
- name: AWS_ENDPOINT_URL_S3
  value: {{ . | quote }}
{{- end }}
{{- with .Values.artifacts.s3.existingSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: { secretKeyRef: { name: {{ . }}, key: AWS_ACCESS_KEY_ID } }
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: { secretKeyRef: { name: {{ . }}, key: AWS_SECRET_ACCESS_KEY } }
{{- end }}
{{- end }}
{{- end -}}

{{- define "sllm.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: { type: RuntimeDefault }
{{- end -}}

{{- define "sllm.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end -}}

{{/* Arguments: root, component. Volumes that every pod of ours has. */}}
{{- define "sllm.volumes" -}}
{{- $root := index . 0 -}}
- name: config
  configMap: { name: {{ include "sllm.fullname" $root }}-{{ index . 1 }} }
- name: tmp
  emptyDir: {}
{{- if and $root.Values.metadata.caFromSecret $root.Values.metadata.existingSecret }}
- name: metadata-ca
  secret:
    secretName: {{ $root.Values.metadata.existingSecret }}
    items: [{ key: ca.crt, path: ca.crt }]
{{- end }}
{{- if and (eq $root.Values.artifacts.kind "pvc") (ne (index . 1) "orchestrator") }}
- name: artifacts
  persistentVolumeClaim: { claimName: {{ include "sllm.artifactsClaim" $root }} }
{{- end }}
{{- end -}}

{{/* Arguments: root, component. Of shared artifacts the ingest service is the only writer. */}}
{{- define "sllm.mounts" -}}
{{- $root := index . 0 -}}
- { name: config, mountPath: /etc/serverlessllm, readOnly: true }
- { name: tmp, mountPath: /tmp }
- { name: data, mountPath: /var/lib/serverlessllm }
{{- if and $root.Values.metadata.caFromSecret $root.Values.metadata.existingSecret }}
- { name: metadata-ca, mountPath: /etc/serverlessllm-metadata, readOnly: true }
{{- end }}
{{- if and (eq $root.Values.artifacts.kind "pvc") (ne (index . 1) "orchestrator") }}
- { name: artifacts, mountPath: /var/lib/serverlessllm/artifacts, readOnly: {{ ne (index . 1) "ingest" }} }
{{- end }}
{{- end -}}

{{- define "sllm.probes" -}}
startupProbe:
  httpGet: { path: /healthz, port: http }
  periodSeconds: 2
  failureThreshold: 90
livenessProbe:
  httpGet: { path: /healthz, port: http }
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end -}}
