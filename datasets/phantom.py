"""phantom: drawn images of twelve findings in five modalities - for demonstration, never a clinical result."""

MODALITIES = {  # finding -> modality phrase; sorted, the first six are the base classes, the others the new ones
    "atelectasis": "chest X-ray",
    "breast carcinoma": "breast ultrasound image",
    "breast cyst": "breast ultrasound image",
    "cardiomegaly": "chest X-ray",
    "diabetic retinopathy": "fundus photograph",
    "glaucoma": "fundus photograph",
    "malaria": "blood smear micrograph",
    "melanocytic nevus": "dermoscopy image",
    "melanoma": "dermoscopy image",
    "pleural effusion": "chest X-ray",
    "pneumonia": "chest X-ray",
    "sickle cell anemia": "blood smear micrograph",
}
CLASSES = tuple(MODALITIES)
