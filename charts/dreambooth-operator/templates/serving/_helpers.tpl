{{/* Of every object of the server. */}}
{{- define "dreambooth.servingName" -}}
{{ include "dreambooth.fullname" . }}-serving
{{- end }}

{{/* Another name than that of the operator's pods, which their Deployment and Service select. */}}
{{- define "dreambooth.servingSelector" -}}
app.kubernetes.io/name: {{ include "dreambooth.name" . | trunc 55 | trimSuffix "-" }}-serving
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "dreambooth.servingPodLabels" -}}
{{- $own := include "dreambooth.servingSelector" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/component" "serving" }}
{{- include "dreambooth.extended" (list $own "commonLabels" .Values.commonLabels .Values.commonLabels) }}
{{- end }}

{{- define "dreambooth.servingLabels" -}}
{{- $own := include "dreambooth.servingSelector" . | fromYaml }}
{{- $_ := set $own "app.kubernetes.io/component" "serving" }}
{{- $_ := set $own "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $own "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $own "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_") }}
{{- include "dreambooth.extended" (list $own "commonLabels" .Values.commonLabels .Values.commonLabels) }}
{{- end }}

{{/* settings.json: what was given, and what the chart knows better. */}}
{{- define "dreambooth.servingSettings" -}}
{{- $serving := .Values.serving }}
{{- $root := required "serving.root: required; name the folder of the results, for example s3://bucket/results" $serving.root }}
{{- if not (or $serving.tokensSecret $serving.insecure) }}
{{- fail "serving.tokensSecret: required; name a Secret with the key tokens, or set serving.insecure to serve every pod that reaches it" }}
{{- end }}
{{- if and $serving.settings.imagesPerHour (not $serving.tokensSecret) }}
{{- fail "serving.settings.imagesPerHour: is counted by token; set serving.tokensSecret" }}
{{- end }}
{{- $own := dict "root" $root "host" "0.0.0.0" "port" 8080 "insecure" $serving.insecure }}
{{- $storage := dict }}
{{- range $key, $value := $serving.storage }}{{- if $value }}{{- $_ := set $storage $key $value }}{{- end }}{{- end }}
{{- $_ := set $own "storage" $storage }}
{{- if $serving.base }}{{- $_ := set $own "base" $serving.base }}{{- end }}
{{- mustMergeOverwrite (deepCopy $serving.settings) $own | toJson }}
{{- end }}

{{/* With the GPUs. */}}
{{- define "dreambooth.servingResources" -}}
{{- $resources := deepCopy .Values.serving.resources }}
{{- if gt (int .Values.serving.gpus) 0 }}
{{- $limits := merge (dict .Values.serving.gpuResource (.Values.serving.gpus | int)) (default (dict) $resources.limits) }}
{{- $_ := set $resources "limits" $limits }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
