# On Google Cloud: a GKE cluster that exists, a bucket spoken to by the S3 protocol (HMAC keys), a GPU and a CPU node
# pool. Google's storage takes Amazon's protocol with HMAC keys only, so that there is a Secret where AWS needs none.

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 7.0"
    }
    helm = {
      source  = "hashicorp/helm"
      version = "~> 3.0"
    }
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = "~> 2.30"
    }
  }
}

variable "project" {
  description = "Project of the cluster."
  type        = string
}

variable "location" {
  description = "Location of the cluster, e.g. europe-west4."
  type        = string
}

variable "cluster_name" {
  description = "A GKE cluster, Standard mode."
  type        = string
}

variable "bucket" {
  description = "Name of the bucket that is made for artifacts."
  type        = string
}

provider "google" {
  project = var.project
}

data "google_client_config" "this" {}

data "google_container_cluster" "this" {
  name     = var.cluster_name
  location = var.location
}

provider "kubernetes" {
  host                   = "https://${data.google_container_cluster.this.endpoint}"
  token                  = data.google_client_config.this.access_token
  cluster_ca_certificate = base64decode(data.google_container_cluster.this.master_auth[0].cluster_ca_certificate)
}

provider "helm" {
  kubernetes = {
    host                   = "https://${data.google_container_cluster.this.endpoint}"
    token                  = data.google_client_config.this.access_token
    cluster_ca_certificate = base64decode(data.google_container_cluster.this.master_auth[0].cluster_ca_certificate)
  }
}

resource "google_storage_bucket" "artifacts" {
  name                        = var.bucket
  location                    = var.location
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
}

resource "google_service_account" "artifacts" {
  account_id   = "sllm-artifacts"
  display_name = "Reads and writes ServerlessLLM's artifacts"
}

resource "google_storage_bucket_iam_member" "artifacts" {
  bucket = google_storage_bucket.artifacts.name
  role   = "roles/storage.objectUser"
  member = "serviceAccount:${google_service_account.artifacts.email}"
}

resource "google_storage_hmac_key" "artifacts" {
  service_account_email = google_service_account.artifacts.email
}

resource "google_container_node_pool" "gpu" {
  name     = "sllm-gpu"
  cluster  = data.google_container_cluster.this.name
  location = var.location

  autoscaling {
    min_node_count = 0
    max_node_count = 4
  }

  node_config {
    machine_type = "a3-highgpu-1g"
    labels       = { "serverlessllm-pool" = "gpu" }

    guest_accelerator {
      type  = "nvidia-h100-80gb"
      count = 1

      gpu_driver_installation_config {
        gpu_driver_version = "LATEST"
      }
    }

    ephemeral_storage_local_ssd_config {
      local_ssd_count = 2
    }
  }
}

resource "google_container_node_pool" "cpu" {
  name       = "sllm-cpu"
  cluster    = data.google_container_cluster.this.name
  location   = var.location
  node_count = 2

  node_config {
    machine_type = "c4-standard-16"
    labels       = { "serverlessllm-pool" = "cpu" }
  }
}

resource "kubernetes_namespace" "this" {
  metadata {
    name = "serverlessllm"
  }
}

resource "kubernetes_secret" "artifacts" {
  metadata {
    name      = "artifacts"
    namespace = kubernetes_namespace.this.metadata[0].name
  }

  data = {
    AWS_ACCESS_KEY_ID     = google_storage_hmac_key.artifacts.access_id
    AWS_SECRET_ACCESS_KEY = google_storage_hmac_key.artifacts.secret
  }
}

module "serverlessllm" {
  source = "../.."

  namespace          = kubernetes_namespace.this.metadata[0].name
  artifacts_url      = "s3://${google_storage_bucket.artifacts.name}/artifacts"
  artifacts_endpoint = "https://storage.googleapis.com"
  artifacts_region   = "auto"
  artifacts_secret   = kubernetes_secret.artifacts.metadata[0].name

  pools = {
    gpu = {
      gpus              = 1
      node_selector     = { "serverlessllm-pool" = "gpu" }
      empty_dir_size_gi = 600
      arena_budget      = "128GiB"
      shm_size          = "160Gi"
      memory            = "200Gi"
    }
    cpu = {
      node_selector = { "serverlessllm-pool" = "cpu" }
      arena_budget  = "24GiB"
      shm_size      = "28Gi"
      memory        = "48Gi"
    }
  }

  depends_on = [google_container_node_pool.gpu, google_container_node_pool.cpu]
}
