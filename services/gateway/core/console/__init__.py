"""What the console computes of the API's answers. Pure."""
