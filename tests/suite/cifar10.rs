//! A small CIFAR-10 in its official layout: records of a label and the planes red, green, blue.

use super::program::Folder;

pub const RECORD: usize = 1 + 3 * 32 * 32;
pub const FILES: [&str; 6] = [
    "data_batch_1.bin",
    "data_batch_2.bin",
    "data_batch_3.bin",
    "data_batch_4.bin",
    "data_batch_5.bin",
    "test_batch.bin",
];

/// Where a file lies below a folder that holds the set.
pub fn file(name: &str) -> String {
    format!("cifar-10-batches-bin/{name}")
}

/// Writes the set into `folder`, every file with `records` images that differ by their labels.
pub fn write(folder: &Folder, records: usize) {
    std::fs::create_dir_all(folder.path("cifar-10-batches-bin")).unwrap();
    for (number, name) in FILES.iter().enumerate() {
        let mut bytes = Vec::with_capacity(records * RECORD);
        for record in 0..records {
            let label = (record + number) % 10;
            bytes.push(label as u8);
            bytes.extend((0..RECORD - 1).map(|at| {
                let (row, column) = (at / 32 % 32, at % 32);
                ((label + 1) * row + (record + number) * column + 31 * at % 17) as u8
            }));
        }
        folder.write(&file(name), bytes);
    }
}
